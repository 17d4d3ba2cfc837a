-- KEYS: stream, meta, members, due, retry, dead letters. How far a group is.
local a = cmsgpack.unpack(ARGV[1])
local stream, meta, members, due, retry, dead = unpack(KEYS)
local group, now = a.group, clock()
local known = redis.call('HMGET', meta, 'gen/' .. group, 'paused/' .. group, 'seen/' .. group, 'n')
if not known[1] then return false end
local lease, consumers = live(meta, members, group, now)
local leased, oldest = 0, nil
for _, key in ipairs({ stream, retry }) do
  if redis.call('EXISTS', key) == 1 then
    local pending = redis.call('XPENDING', key, group)
    if key == stream then oldest = pending[2] or nil end
    for _, one in ipairs(pending[4] or {}) do
      if one[1] ~= WAITING then leased = leased + tonumber(one[2]) end
    end
  end
end
redis.call('XTRIM', dead, 'MINID', string.format('%.0f', math.max(0, now - a.dead_letter_age)))
local cursor = cursors(stream)[group] or '0-0'
if not oldest then  -- nothing is handed out: the first that will be
  local unread = redis.call('XRANGE', stream, '(' .. cursor, '+', 'COUNT', 1)[1]
  oldest = unread and unread[1]
end
return { tonumber(known[4]) - number_at(stream, meta, cursor), leased, redis.call('ZCARD', due),
  redis.call('XLEN', dead), consumers, lease, known[2] and 1 or 0, known[3] or false,
  oldest and string.match(oldest, '^%d+') or false }
