-- The newest records: of one label, or of all merged by the order of writing.
local a = cmsgpack.unpack(ARGV[1])
local now, found = microseconds(), {}
sweep(a.prefix, a.collection, now, SWEPT)
if ARGV[2] then  -- by the beginning of the key
  local keys = redis.call('ZRANGEBYLEX', a.prefix .. '-keys:' .. a.collection, ARGV[2], ARGV[3])
  for _, key in ipairs(keys) do
    local record = read_record(a.prefix, a.collection, key, now)
    if record and (not a.label or label_of(index_of(record[3])) == a.label) then
      found[#found + 1] = { key, record[4], record }
    end
  end
else
  -- Places first, records after: of all labels' newest only a few are the newest of all.
  for _, index in ipairs(redis.call('SMEMBERS', a.prefix .. '-indexes:' .. a.collection)) do
    if not a.label or label_of(index) == a.label then
      local newest = a.prefix .. '-newest:' .. a.collection .. ':' .. index
      local keys = redis.call('ZREVRANGE', newest, 0, a.limit - 1, 'WITHSCORES')
      for i = 1, #keys, 2 do found[#found + 1] = { keys[i], tonumber(keys[i + 1]) } end
    end
  end
end
table.sort(found, function(x, y) return x[2] > y[2] end)
local answer = {}
for _, place in ipairs(found) do
  if #answer == a.limit then break end
  local record = place[3] or read_record(a.prefix, a.collection, place[1], now)
  if record then answer[#answer + 1] = { record[1], record[2], record[3] } end
end
return answer
