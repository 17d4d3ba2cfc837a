-- Removes a collection; returns how many keys there were, of records and of counters.
local a = cmsgpack.unpack(ARGV[1])
sweep(a.prefix, a.collection, microseconds())
local at, counts = a.prefix .. '-records:' .. a.collection, a.prefix .. '-counts:' .. a.collection
local n, seen = redis.call('HLEN', at), {}
for _, field in ipairs(redis.call('HKEYS', counts)) do
  local length, start = string.match(field, '^(%d+):()')
  local key = string.sub(field, start, start + tonumber(length) - 1)
  if not seen[key] and redis.call('HEXISTS', at, key) == 0 then n = n + 1 end
  seen[key] = true
end
for _, index in ipairs(redis.call('SMEMBERS', a.prefix .. '-indexes:' .. a.collection)) do
  redis.call('UNLINK', a.prefix .. '-newest:' .. a.collection .. ':' .. index)
end
for _, kind in ipairs({ '-records:', '-counts:', '-indexes:', '-keys:' }) do
  redis.call('UNLINK', a.prefix .. kind .. a.collection)
end
return n
