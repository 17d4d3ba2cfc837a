-- KEYS: meta. Every claim looks at the mark, so nothing is handed out from here on.
local a = cmsgpack.unpack(ARGV[1])
if redis.call('HEXISTS', KEYS[1], 'gen/' .. a.group) == 0 then return 0 end
if a.paused then
  redis.call('HSET', KEYS[1], 'paused/' .. a.group, 1)
else
  redis.call('HDEL', KEYS[1], 'paused/' .. a.group)
end
wake(KEYS[1], a.channel)
return 1
