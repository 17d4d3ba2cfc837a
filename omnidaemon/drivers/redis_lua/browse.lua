-- The newest records: of one label, or of all merged by the order of writing; those alone that
-- were written before `before`, or at that moment and have a lesser key than `beside`.
local a = cmsgpack.unpack(ARGV[1])
local now, found = microseconds(), {}
local function is_wanted(key, at)
  return not a.before or at < a.before or (at == a.before and key < a.beside)
end

-- An index is a list from the newest on, of which the next few places are taken.
local function open_lists()
  local lists = {}
  for _, index in ipairs(redis.call('SMEMBERS', a.prefix .. '-indexes:' .. a.collection)) do
    if not a.label or label_of(index) == a.label then
      local ttl = time_to_live(index)
      lists[#lists + 1] = { key = a.prefix .. '-newest:' .. a.collection .. ':' .. index,
        taken = 0, last = math.huge, since = ttl < 0 and -1 or now - ttl * 1000 }
    end
  end
  return lists
end

local function take(list, count)
  local from = a.before and string.format('%.0f', a.before) or '+inf'
  local places = redis.call('ZREVRANGEBYSCORE', list.key, from, '-inf', 'WITHSCORES',
    'LIMIT', list.taken, count)
  list.taken = list.taken + count
  for i = 1, #places, 2 do
    list.last = tonumber(places[i + 1])
    if list.last > list.since and is_wanted(places[i], list.last) then
      found[#found + 1] = { places[i], list.last }
    end
  end
  if #places < 2 * count or list.last <= list.since then list.last = -math.huge end  -- its end
end

-- Of many labels' newest only a few are the newest of all: what is newer than the last place taken
-- of every list is in order, and when that is enough, no more are taken.
local function merge(lists)
  local count = #lists == 1 and a.limit + 1 or math.max(8, math.ceil(2 * a.limit / #lists))
  local bound = math.huge
  while bound > -math.huge do
    bound = -math.huge
    for _, list in ipairs(lists) do
      if list.last > -math.huge then take(list, count) end
      bound = math.max(bound, list.last)
    end
    local enough = 0
    for _, place in ipairs(found) do
      if place[2] > bound then enough = enough + 1 end
    end
    if enough >= a.limit then return end
  end
end

sweep(a.prefix, a.collection, now, SWEPT)
if ARGV[2] then  -- by the beginning of the key
  local keys = redis.call('ZRANGEBYLEX', a.prefix .. '-keys:' .. a.collection, ARGV[2], ARGV[3])
  for _, key in ipairs(keys) do
    local record = read_record(a.prefix, a.collection, key, now)
    if record and is_wanted(key, record[4])
        and (not a.label or label_of(index_of(record[3])) == a.label) then
      found[#found + 1] = { key, record[4], record }
    end
  end
else
  merge(open_lists())  -- places first, records after
end
table.sort(found, function(x, y) return x[2] > y[2] or (x[2] == y[2] and x[1] > y[1]) end)
local answer = {}
for _, place in ipairs(found) do
  if #answer == a.limit then break end
  local record = place[3] or read_record(a.prefix, a.collection, place[1], now)
  if record then
    answer[#answer + 1] = { record[1], record[2], record[3], string.format('%.0f', record[4]) }
  end
end
return answer
