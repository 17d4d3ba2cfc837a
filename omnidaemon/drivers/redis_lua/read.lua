-- The records with these keys, false for none.
local a = cmsgpack.unpack(ARGV[1])
local now, found = microseconds(), {}
for i, key in ipairs(a.keys) do
  local record = read_record(a.prefix, a.collection, key, now)
  found[i] = record and { record[1], record[2], record[3] } or false
end
return found
