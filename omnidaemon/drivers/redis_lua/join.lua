-- KEYS: registry, stream, meta, members, due. Adds a consumer to its group, made if need be.
-- With `repair` the group is made where it was lost, unless somebody removed it.
local a = cmsgpack.unpack(ARGV[1])
local registry, stream, meta, members, due = unpack(KEYS)
local group, now = a.group, clock()
local gen = redis.call('HGET', meta, 'gen/' .. group)
if a.repair and not gen and redis.call('HEXISTS', meta, 'removed/' .. group) == 1 then
  return { 'removed' }
end
if redis.call('HEXISTS', meta, 'n') == 0 then
  redis.call('SADD', registry, a.topic)
  redis.call('PERSIST', meta)
  redis.call('HSET', meta, 'n', 0, 'pos', 0)
end
local at = cursors(stream)[group]
if not at then
  if gen then
    at = redis.call('HGET', meta, 'floor/' .. group) or '0-0'
  elseif a.start == 'new' then
    local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    at = newest and newest[1] or '0-0'
  elseif a.start == 'oldest' then
    at = '0-0'
  else
    at = topic_floor(stream, meta)
  end
  redis.call('XGROUP', 'CREATE', stream, group, at, 'MKSTREAM')
  gen = nil
end
if not gen then
  -- A group made again is another one: no token of the old one fits it.
  redis.call('HSET', meta, 'gen/' .. group, redis.call('HINCRBY', meta, 'gens', 1) .. '-' .. now,
    'reclaim/' .. group, 0, 'floor/' .. group, at)
  redis.call('HDEL', meta, 'removed/' .. group)
end
hear_of(meta, members, group, a.consumer, a.lease, now)
if not a.repair then redis.call('HSET', members, '+' .. a.consumer, 1) end
local n = tonumber(redis.call('HGET', meta, 'n'))
return { 'joined', n - number_at(stream, meta, at) + redis.call('ZCARD', due) }
