-- At its maxmemory Redis refuses a script's first write if that may take memory, and none after it.
-- Steps that keep leases and empty topics are not refused: they begin with a write that takes none.
local function even_when_full(meta) redis.call('HDEL', meta, '') end

-- What waits for a retry, or was handed back, stays pending in the name of nobody.
local WAITING = '~waiting'

-- Up to where a group has settled everything (an id that it starts after, were it made again).
local function floor_of(stream, group, cursor)
  local first = redis.call('XPENDING', stream, group, '-', '+', 1)
  return first[1] and before(first[1][1]) or cursor
end

local function cursors(stream)
  local found = {}
  if redis.call('EXISTS', stream) == 0 then return found end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
    found[group.name] = group['last-delivered-id']
  end
  return found
end

-- The same for all groups of the topic; what it was when the last of them was removed.
local function topic_floor(stream, meta)
  local lowest
  for name, cursor in pairs(cursors(stream)) do
    local floor = floor_of(stream, name, cursor)
    if not lowest or less(floor, lowest) then lowest = floor end
  end
  return lowest or redis.call('HGET', meta, 'floor') or '0-0'
end

-- The number of the newest event up to an id.
local function number_at(stream, meta, id)
  local entry = redis.call('XREVRANGE', stream, id, '-', 'COUNT', 1)[1]
  if entry then return number(entry) end
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first then
    local n, pos = number(first)
    return n - 1, pos - #(first[2][4] or '')
  end
  local known = redis.call('HMGET', meta, 'n', 'pos')
  return tonumber(known[1] or 0), tonumber(known[2] or 0)
end

-- Makes the group's lease the largest of its live consumers'; with none alive it stays.
local function live(meta, members, group, now)
  local largest, count = 0, 0
  local all = redis.call('HGETALL', members)
  for i = 1, #all, 2 do
    local lease, seen = string.match(all[i + 1], '^(%d+) (%d+)$')
    if lease then  -- not the mark of one from whom nothing was taken
      lease, seen = tonumber(lease), tonumber(seen)
      if seen + lease > now then
        largest, count = math.max(largest, lease), count + 1
      elseif seen + 2 * lease < now then
        redis.call('HDEL', members, all[i], '+' .. all[i])
      end
    end
  end
  local lease = tonumber(redis.call('HGET', meta, 'lease/' .. group) or 0)
  if largest > 0 and largest ~= lease then
    lease = largest
    redis.call('HSET', meta, 'lease/' .. group, lease, 'reclaim/' .. group, 0)
  end
  return lease, count
end

-- When the last pardon was, when the one before that was, and of which silence the last was: the
-- moment of the last renewal before it.
local function last_pardon(meta, group)
  local known = redis.call('HGET', meta, 'pardoned/' .. group) or ''
  local of, at, before = string.match(known, '^(%d+) (%d+) (%d+)$')
  return tonumber(at or 0), tonumber(before or 0), of
end

-- Nobody renewed for half a lease, which one who lives does thrice in a lease; nobody has joined since,
-- and yet one of them asks: the server could not be reached or stood still, or all of them did. What
-- was held is given one more lease from now on, for who is heard first is no sign of who lives; but
-- what nobody has renewed since the last pardon is a dead consumer's (see `claim`).
local function pardon(meta, members, group, now)
  local known = redis.call('HMGET', meta, 'renewed/' .. group, 'seen/' .. group, 'lease/' .. group)
  local renewed, seen, lease = tonumber(known[1]), tonumber(known[2] or 0), tonumber(known[3] or 0)
  if not renewed or seen > renewed or renewed + lease / 2 >= now then return end
  local at, _, of = last_pardon(meta, group)
  if of == known[1] then return end  -- once per silence
  redis.call('HSET', meta, 'pardoned/' .. group, string.format('%s %.0f %.0f', known[1], now, at))
  -- Else the shorter lease of who is heard first would hold for all.
  local all = redis.call('HGETALL', members)
  for i = 1, #all, 2 do
    local own = string.match(all[i + 1], '^(%d+) %d+$')
    if own then redis.call('HSET', members, all[i], string.format('%s %.0f', own, now)) end
  end
end

local function hear_of(meta, members, group, consumer, lease, now)
  redis.call('HSET', members, consumer, lease .. ' ' .. now)
  redis.call('HSET', meta, 'seen/' .. group, string.format('%.0f', now))
  live(meta, members, group, now)
end
