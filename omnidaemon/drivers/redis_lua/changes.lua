-- Records and counters. A record is 'length of index:index' and its value; its index is its time to
-- live (ms, -1 for none), ':' and its label ('' for none, else with a mark before it). An index holds
-- the keys of its records by the time of writing (microseconds), which for records that live equally
-- long is the order in which they expire as well. Beside them the keys in order, for prefixes.
-- The names of keys are made here of `prefix`, which in a cluster puts all of them into one slot. KEYS
-- has all but those of the indexes, so that a script runs where they are, or not at all.
local function index_of(record)
  local length, start = string.match(record, '^(%d+):()')
  return string.sub(record, start, start + tonumber(length) - 1)
end

local function label_of(index) return string.match(index, ':(.*)$') end

local function time_to_live(index) return tonumber(string.match(index, '^(-?%d+):')) end

local function drop_records(prefix, collection, keys)
  local at = prefix .. '-records:' .. collection
  for first = 1, #keys, 1000 do
    local some = { unpack(keys, first, math.min(first + 999, #keys)) }
    for i, old in ipairs(redis.call('HMGET', at, unpack(some))) do
      if old then
        redis.call('ZREM', prefix .. '-newest:' .. collection .. ':' .. index_of(old), some[i])
      end
    end
    redis.call('HDEL', at, unpack(some))
    redis.call('ZREM', prefix .. '-keys:' .. collection, unpack(some))
  end
end

-- Removes expired records of one index, `most` of them; returns how many.
local function sweep_index(prefix, collection, index, now, most)
  local ttl = time_to_live(index)
  if ttl < 0 then return 0 end
  local newest = prefix .. '-newest:' .. collection .. ':' .. index
  local gone = redis.call('ZRANGEBYSCORE', newest, '-inf', string.format('%.0f', now - ttl * 1000),
    'LIMIT', 0, most)
  if #gone > 0 then drop_records(prefix, collection, gone) end
  return #gone
end

-- The same for all indexes of a collection, some thousands each at most; or for `most` of them taken
-- at random, because there may be one per tenant and topic. Who reads finds nothing expired anyway.
local SWEPT = 64
local function sweep(prefix, collection, now, most)
  local indexes = prefix .. '-indexes:' .. collection
  local chosen = most and redis.call('SRANDMEMBER', indexes, most) or redis.call('SMEMBERS', indexes)
  for _, index in ipairs(chosen) do
    local turns = 0
    while turns < 10 and sweep_index(prefix, collection, index, now, 1000) == 1000 do
      turns = turns + 1
    end
    if redis.call('EXISTS', prefix .. '-newest:' .. collection .. ':' .. index) == 0 then
      redis.call('SREM', indexes, index)
    end
  end
end

-- Writes records of one collection and index: keys and records stand by turns in ARGV from `first`
-- on; no key twice.
local function write_records(prefix, collection, index, first, count, now)
  local at, newest = prefix .. '-records:' .. collection, prefix .. '-newest:' .. collection .. ':'
  local names, places = {}, {}
  for i = 0, count - 1 do
    local key = ARGV[first + 2 * i]
    names[2 * i + 1], names[2 * i + 2] = '0', key
    places[2 * i + 1], places[2 * i + 2] = now + i, key
  end
  local created = redis.call('HSET', at, unpack(ARGV, first, first + 2 * count - 1))
  local placed = redis.call('ZADD', newest .. index, unpack(places))
  redis.call('ZADD', prefix .. '-keys:' .. collection, unpack(names))
  redis.call('SADD', prefix .. '-indexes:' .. collection, index)
  if placed > created then  -- some were in another index until now
    for _, other in ipairs(redis.call('SMEMBERS', prefix .. '-indexes:' .. collection)) do
      if other ~= index then
        for i = 2, 2 * count, 2 do redis.call('ZREM', newest .. other, names[i]) end
      end
    end
  end
  sweep_index(prefix, collection, index, now, 2 * count + 10)  -- it keeps up with what is written
  if now % 64 == 0 then sweep(prefix, collection, now, SWEPT) end  -- and with labels out of use
end

local function add_to_counter(at, field, amount)
  -- Whole numbers are added as such where the counter is one: that costs half.
  local whole = amount % 1 == 0
  if whole and type(redis.pcall('HINCRBY', at, field, string.format('%.0f', amount))) == 'number' then
    return
  end
  redis.call('HINCRBYFLOAT', at, field, string.format('%.17g', amount))
end

-- `runs` are { collection, index, first, count }, at most 1000 each; `gone` are
-- { collection, keys }; `counts` are { collection, field, amount }.
local function apply_changes(prefix, changes, now)
  for _, one in ipairs(changes.gone) do drop_records(prefix, one[1], one[2]) end
  for _, run in ipairs(changes.runs) do
    write_records(prefix, run[1], run[2], run[3], run[4], now)
    now = now + run[4]
  end
  for _, count in ipairs(changes.counts) do
    add_to_counter(prefix .. '-counts:' .. count[1], count[2], count[3])
  end
end

-- A record's key, when it was written (ms), itself, and its place in the order of writing; nil if
-- it has expired.
local function read_record(prefix, collection, key, now)
  local record = redis.call('HGET', prefix .. '-records:' .. collection, key)
  if not record then return nil end
  local index = index_of(record)
  local newest, ttl = prefix .. '-newest:' .. collection .. ':' .. index, time_to_live(index)
  local written = tonumber(redis.call('ZSCORE', newest, key))
  if ttl >= 0 and written + ttl * 1000 <= now then return nil end
  return { key, math.floor(written / 1000), record, written }
end
