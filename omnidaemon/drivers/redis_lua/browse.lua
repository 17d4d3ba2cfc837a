-- The newest records: of one label, or of all merged by the order of writing.
local a = cmsgpack.unpack(ARGV[1])
local now, found = microseconds(), {}
sweep(a.prefix, a.collection, now)
local function look_at(key)
  local record = read_record(a.prefix, a.collection, key, now)
  if record and (not a.label or label_of(index_of(record[3])) == a.label) then
    found[#found + 1] = record
  end
end
if ARGV[2] then  -- by the beginning of the key
  local keys = redis.call('ZRANGEBYLEX', a.prefix .. '-keys:' .. a.collection, ARGV[2], ARGV[3])
  for _, key in ipairs(keys) do look_at(key) end
else
  for _, index in ipairs(redis.call('SMEMBERS', a.prefix .. '-indexes:' .. a.collection)) do
    if not a.label or label_of(index) == a.label then
      local newest = a.prefix .. '-newest:' .. a.collection .. ':' .. index
      for _, key in ipairs(redis.call('ZREVRANGE', newest, 0, a.limit - 1)) do look_at(key) end
    end
  end
end
table.sort(found, function(x, y) return x[4] > y[4] end)
local answer = {}
for i = 1, math.min(a.limit, #found) do
  answer[i] = { found[i][1], found[i][2], found[i][3] }
end
return answer
