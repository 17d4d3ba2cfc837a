-- Removes records; returns how many there were.
local a = cmsgpack.unpack(ARGV[1])
local now, there = microseconds(), {}
for _, key in ipairs(a.keys) do
  if read_record(a.prefix, a.collection, key, now) then there[#there + 1] = key end
end
drop_records(a.prefix, a.collection, a.keys)
return #there
