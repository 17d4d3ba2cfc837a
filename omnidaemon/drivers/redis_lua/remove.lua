-- Removes records; returns how many there were.
local a = cmsgpack.unpack(ARGV[1])
while sweep(a.prefix, a.collection, clock(), 1000) == 1000 do end
local there = {}
for _, key in ipairs(a.keys) do
  if redis.call('HEXISTS', a.prefix .. '-records:' .. a.collection, key) == 1 then
    there[#there + 1] = key
  end
end
drop_records(a.prefix, a.collection, there)
return #there
