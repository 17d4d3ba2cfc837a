-- KEYS: stream, meta, members, due, retry, state, dead letters. The mark that remains keeps running
-- consumers from making the group again.
local a = cmsgpack.unpack(ARGV[1])
local stream, meta, members, due, retry, state, dead = unpack(KEYS)
if a.dead_letters then
  redis.call('DEL', dead)
  redis.call('HDEL', meta, 'dead/' .. a.group)
end
if redis.call('HEXISTS', meta, 'gen/' .. a.group) == 0 then return 0 end
redis.call('HSET', meta, 'floor', topic_floor(stream, meta))
if redis.call('EXISTS', stream) == 1 then redis.call('XGROUP', 'DESTROY', stream, a.group) end
redis.call('DEL', members, due, retry, state)
for _, field in ipairs({ 'gen/', 'paused/', 'lease/', 'reclaim/', 'seen/', 'renewed/', 'pardoned/', 'floor/' }) do
  redis.call('HDEL', meta, field .. a.group)
end
redis.call('HSET', meta, 'removed/' .. a.group, 1)
wake(meta, a.channel)
return 1
