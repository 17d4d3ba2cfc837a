-- Records and counters. A record is 'length of label:label' and its value; the label is '' for none
-- and else has a mark before it. Beside the records: an index of keys in order (for prefixes), one
-- per label by the order of writing (newest first; the score holds the time as well), and one by the
-- time of expiry.
local PER_MS = 2048  -- places in the order of writing per millisecond

local function label_of(record)
  local length, start = string.match(record, '^(%d+):()')
  return string.sub(record, start, start + tonumber(length) - 1)
end

local function drop_records(prefix, collection, keys)
  local at = prefix .. '-records:' .. collection
  for first = 1, #keys, 1000 do
    local some = { unpack(keys, first, math.min(first + 999, #keys)) }
    local old = redis.call('HMGET', at, unpack(some))
    for i, key in ipairs(some) do
      if old[i] then
        redis.call('ZREM', prefix .. '-newest:' .. collection .. ':' .. label_of(old[i]), key)
      end
    end
    redis.call('HDEL', at, unpack(some))
    redis.call('ZREM', prefix .. '-keys:' .. collection, unpack(some))
    redis.call('ZREM', prefix .. '-expiry:' .. collection, unpack(some))
  end
end

local function sweep(prefix, collection, now, most)
  local gone = redis.call('ZRANGEBYSCORE', prefix .. '-expiry:' .. collection, '-inf', now,
    'LIMIT', 0, most)
  if #gone > 0 then drop_records(prefix, collection, gone) end
  return #gone
end

-- Writes records of one collection, label and time to live (ms, -1 for none): keys and records stand
-- by turns in ARGV from `first` on; no key twice.
local function write_records(prefix, collection, label, ttl, first, count, now, order)
  local keys = prefix .. '-keys:' .. collection
  local names, newest, ends, plain = {}, {}, {}, {}
  local expires = now + ttl
  for i = 0, count - 1 do
    local key = ARGV[first + 2 * i]
    plain[i + 1] = key
    names[2 * i + 1], names[2 * i + 2] = 0, key
    newest[2 * i + 1], newest[2 * i + 2] = order + i, key
    ends[2 * i + 1], ends[2 * i + 2] = expires, key
  end
  local replaced = {}
  for i, score in ipairs(redis.call('ZMSCORE', keys, unpack(plain))) do
    if score then replaced[#replaced + 1] = plain[i] end
  end
  if #replaced > 0 then drop_records(prefix, collection, replaced) end
  redis.call('HSET', prefix .. '-records:' .. collection, unpack(ARGV, first, first + 2 * count - 1))
  redis.call('ZADD', keys, unpack(names))
  redis.call('ZADD', prefix .. '-newest:' .. collection .. ':' .. label, unpack(newest))
  redis.call('SADD', prefix .. '-labels:' .. collection, label)
  if ttl >= 0 then redis.call('ZADD', prefix .. '-expiry:' .. collection, unpack(ends)) end
  sweep(prefix, collection, now, 2 * count + 10)  -- it keeps up with what is written
end

-- `runs` are { collection, label, ttl, first, count }, at most 1000 each; `gone` are
-- { collection, keys }; `counts` are { collection, key, field, amount }.
local function apply_changes(prefix, changes, now)
  for _, one in ipairs(changes.gone) do drop_records(prefix, one[1], one[2]) end
  if #changes.runs > 0 then
    local last = tonumber(redis.call('GET', prefix .. '-written') or 0)
    local order = math.max(last + 1, now * PER_MS)
    for _, run in ipairs(changes.runs) do
      write_records(prefix, run[1], run[2], run[3], run[4], run[5], now, order)
      order = order + run[5]
    end
    redis.call('SET', prefix .. '-written', order)
  end
  for _, count in ipairs(changes.counts) do
    redis.call('HINCRBYFLOAT', prefix .. '-counts:' .. count[1],
      #count[2] .. ':' .. count[2] .. count[3], string.format('%.17g', count[4]))
  end
end

-- A record's key, when it was written (ms), itself, and its place in the order of writing; nil if
-- it has expired.
local function read_record(prefix, collection, key, now)
  local record = redis.call('HGET', prefix .. '-records:' .. collection, key)
  if not record then return nil end
  local expires = redis.call('ZSCORE', prefix .. '-expiry:' .. collection, key)
  if expires and tonumber(expires) <= now then return nil end
  local newest = prefix .. '-newest:' .. collection .. ':' .. label_of(record)
  local score = tonumber(redis.call('ZSCORE', newest, key))
  return { key, math.floor(score / PER_MS), record, score }
end
