-- KEYS: stream, meta, members, retry. Says that the consumer lives and renews its leases, but only
-- those that are still its own at the same count: a blind XCLAIM would steal from who took over.
-- Returns the places in the list of those it lost.
local a = cmsgpack.unpack(ARGV[1])
local stream, meta, members, retry = unpack(KEYS)
even_when_full(meta)
local gen = redis.call('HGET', meta, 'gen/' .. a.group)
if gen then
  local now = clock()
  pardon(meta, members, a.group, now)
  hear_of(meta, members, a.group, a.consumer, a.lease, now)
  redis.call('HSET', meta, 'renewed/' .. a.group, string.format('%.0f', now))
end
local keys, ids, mine, lost = { s = stream, r = retry }, { s = {}, r = {} }, {}, {}
for _, one in ipairs(a.tokens) do table.insert(ids[one[1]], one[2]) end
for kind, key in pairs(keys) do
  mine[kind] = held_of(key, a.group, a.consumer, gen and ids[kind] or {}, #ids[kind] + 1)
end
for place, one in ipairs(a.tokens) do
  local kind, id, count = one[1], one[2], one[3]
  if one[4] == gen and mine[kind][id] == count then
    redis.call('XCLAIM', keys[kind], a.group, a.consumer, 0, id, 'JUSTID')
  else
    lost[#lost + 1] = place - 1
  end
end
return lost
