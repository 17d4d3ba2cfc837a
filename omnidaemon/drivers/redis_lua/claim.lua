-- KEYS: registry, stream, meta, delayed, members, due, retry, state.
-- Leases up to `limit` deliveries of those that came back: what waits and is due, and what a dead
-- consumer held. New events are read beside this, by a plain command: turning its reply into Lua's
-- tables and back would cost more than reading them. Returns status, generation, when to look again
-- (ms from now, 0 if there is more now), the deliveries as { kind, count, 'attempt crashes replays',
-- entry }, and whether nothing was ever taken from this consumer (see `settle`).
local a = cmsgpack.unpack(ARGV[1])
local registry, stream, meta, delayed, members, due, retry, state = unpack(KEYS)
local group, me, now = a.group, a.consumer, clock()
even_when_full(meta)
local known = redis.call('HMGET', meta, 'gen/' .. group, 'paused/' .. group, 'lease/' .. group,
  'reclaim/' .. group, 'removed/' .. group)
local gen, lease = known[1], tonumber(known[3] or 0)
if not gen then return { known[5] and 'removed' or 'missing' } end
local keys = { s = stream, r = retry }
if a.vouch then redis.call('HSET', members, '+' .. me, a.vouch) end

if a.known and hand_back_unknown(keys, due, group, me, a.known) then
  redis.call('HDEL', members, '+' .. me)  -- an old claim may come late, and not know of what is held
  wake(meta, a.channel)
end

local next_delayed = ripen(registry, stream, meta, delayed, a.topic, now)
if known[2] then  -- paused; resuming wakes
  redis.call('HSET', meta, 'idle', 1)
  return { 'paused', gen, next_delayed and math.max(1, next_delayed - now) or -1, {}, 1 }
end

local back = {}
local function take(kind, id, robbed)
  if robbed then redis.call('HDEL', members, '+' .. robbed) end
  local entry = redis.call('XCLAIM', keys[kind], group, me, 0, id)[1]
  if not entry then  -- somebody deleted the event itself
    redis.call('XACK', keys[kind], group, id)
    return
  end
  local count = redis.call('XPENDING', keys[kind], group, id, id, 1)[1][4]
  local runs = redis.call('HGET', state, kind .. id) or '1 0 0'
  if robbed then
    local attempt, crashes, replays = string.match(runs, '^(%d+) (%d+) (%d+)$')
    runs = string.format('%d %d %d', attempt, crashes + 1, replays)
    redis.call('HSET', state, kind .. id, runs)
  end
  back[#back + 1] = { kind, count, runs, entry }
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, a.limit)) do
  redis.call('ZREM', due, member)
  local kind, id = string.sub(member, 1, 1), string.sub(member, 2)
  -- Of a group that was made again, `due` tells of the old one: only what waits is nobody's.
  local rows = redis.pcall('XPENDING', keys[kind], group, id, id, 1)
  if not rows.err and rows[1] and rows[1][2] == WAITING then take(kind, id) end
end

-- Leases are idle times. They are looked through when the first can end, and not before: renewal
-- only moves that moment on. What was pardoned ends a lease after that.
local reclaim = tonumber(known[4] or 0)
local pardoned, before = 0, 0
local function end_in(idle)
  local left = lease - idle
  -- Renewed since the pardon before, or with it: nobody was in the half lease before that.
  if left <= 0 and now - idle > before - lease / 4 then
    left = math.max(left, pardoned + lease - now)
  end
  return left
end
local function reclaim_from(kind)
  local key, longest = keys[kind], math.floor(lease * 2 / 3)
  if redis.call('EXISTS', key) == 0 then return 0 end
  local summary = redis.call('XPENDING', key, group)
  for _, one in ipairs(summary[4] or {}) do
    local owner, from = one[1], '-'
    while owner ~= WAITING and from do
      local rows = redis.call('XPENDING', key, group, 'IDLE', math.floor(lease * 2 / 3), from, '+',
        100, owner)
      for _, row in ipairs(rows) do
        local left = end_in(row[3])
        if left > 0 then
          longest = math.max(longest, lease - left)
        elseif #back < a.limit then
          take(kind, row[1], owner)
        else
          return lease
        end
      end
      from = #rows == 100 and '(' .. rows[100][1]
    end
  end
  return longest
end

-- Consumers that are dead and hold nothing go; with something pending they must not.
local function bury_consumers()
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local one = {}
    for i = 1, #info, 2 do one[info[i]] = info[i + 1] end
    if one.pending == 0 and one.name ~= WAITING and one.idle > 2 * lease
        and redis.call('HEXISTS', members, one.name) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, one.name)
    end
  end
end

if now >= reclaim then
  pardon(meta, members, group, now)
  pardoned, before = last_pardon(meta, group)
  local left = lease - math.max(reclaim_from('s'), reclaim_from('r'))
  reclaim = now + math.max(left, left > 0 and 1 or 0)
  redis.call('HSET', meta, 'reclaim/' .. group, string.format('%.0f', reclaim))
  bury_consumers()
end

-- Who publishes wakes the idle. Said before the new events are read, so that none comes in between.
if a.idle then redis.call('HSET', meta, 'idle', 1) end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
local at = math.min(reclaim, next_delayed or math.huge, tonumber(first or math.huge))
return { 'ok', gen, math.max(0, at - now), back, redis.call('HEXISTS', members, '+' .. me) }
