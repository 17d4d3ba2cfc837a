-- KEYS: stream, meta. Removes settled events beyond the retention, in one step with looking where
-- the slowest group is. Returns 1 if there are more than it does at once.
local a = cmsgpack.unpack(ARGV[1])
local stream, meta = unpack(KEYS)
even_when_full(meta)
local floor = topic_floor(stream, meta)
redis.call('HSET', meta, 'floor', floor)
local first = redis.call('XRANGE', stream, '-', floor, 'COUNT', 1)[1]
if not first then return 0 end
local first_n = number(first)
local last_n, last_pos = number_at(stream, meta, floor)
local cut_n, cut_pos = last_n - a.retention, last_pos - a.bytes
local more = cut_n - first_n > 20000
if more then cut_n = first_n + 20000 end

-- The number and the bytes rise with the id: halve the range until the first event that is kept.
local function kept(id)
  local entry = redis.call('XRANGE', stream, id, floor, 'COUNT', 1)[1]
  if not entry then return true, nil end
  local n, pos = number(entry)
  return n > cut_n and pos - #entry[2][4] >= cut_pos, entry[1]
end
local low, high = split(first[1]), split(floor)
high = high + 1
while low < high do
  local middle = math.floor((low + high) / 2)
  if kept(string.format('%.0f-0', middle)) then high = middle else low = middle + 1 end
end
local ms = low - 1  -- some events of this millisecond go, and perhaps not all
local least, most = 0, 1048576
while least < most do
  local middle = math.floor((least + most) / 2)
  if kept(string.format('%.0f-%d', ms, middle)) then most = middle else least = middle + 1 end
end
local _, keep = kept(string.format('%.0f-%d', ms, least))
if not keep then  -- all that is settled goes; `floor` itself as well
  local fms, fseq = split(floor)
  keep = string.format('%.0f-%.0f', fms, fseq + 1)
  if fseq > 9007199254740000 then keep = string.format('%.0f-0', fms + 1) end
end
redis.call('XTRIM', stream, 'MINID', keep)
return more and 1 or 0
