-- Removes a collection; returns how many keys there were, of records and of counters.
local a = cmsgpack.unpack(ARGV[1])
while sweep(a.prefix, a.collection, clock(), 1000) == 1000 do end
local at, counts = a.prefix .. '-records:' .. a.collection, a.prefix .. '-counts:' .. a.collection
local n, seen = redis.call('HLEN', at), {}
for _, field in ipairs(redis.call('HKEYS', counts)) do
  local length, start = string.match(field, '^(%d+):()')
  local key = string.sub(field, start, start + tonumber(length) - 1)
  if not seen[key] and redis.call('HEXISTS', at, key) == 0 then n = n + 1 end
  seen[key] = true
end
for _, label in ipairs(redis.call('SMEMBERS', a.prefix .. '-labels:' .. a.collection)) do
  redis.call('UNLINK', a.prefix .. '-newest:' .. a.collection .. ':' .. label)
end
for _, kind in ipairs({ '-records:', '-counts:', '-labels:', '-keys:', '-expiry:' }) do
  redis.call('UNLINK', a.prefix .. kind .. a.collection)
end
return n
