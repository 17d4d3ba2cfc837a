-- KEYS: registry, stream, meta, due, retry, state, dead letters, receipts, members; then stream, meta
-- and delayed of each topic published to. Applies a batch of settlements if all of its deliveries are
-- still the consumer's, and then returns 'a'. Else it does nothing and returns a letter each: held,
-- repeated (applied before) or lost; the caller asks again with those held alone. So whatever
-- follows from the batch is summed up by the caller, and little is left to do here per message.
local a = cmsgpack.unpack(ARGV[1])
local registry, stream, meta, due, retry, state, dead, receipts, members = unpack(KEYS, 1, 9)
local group, me, now = a.group, a.consumer, clock()
even_when_full(meta)
local keys = { s = stream, r = retry }
if comes_late(redis.call('GET', receipts), a.batch) then return late() end
local valid = redis.call('HGET', meta, 'gen/' .. group) == a.gen

local function acknowledge()
  local count = 0
  for kind, ended in pairs(a.ended) do
    for first = 1, #ended, 1000 do
      local last = math.min(first + 999, #ended)
      count = count + redis.call('XACK', keys[kind], group, unpack(ended, first, last))
      if kind == 'r' then redis.call('XDEL', retry, unpack(ended, first, last)) end
    end
  end
  return count
end

-- A consumer from whom nothing was ever taken has what it was given: the caller vouches for the rest
-- (`sure`: all given on this very connection, none settled before), and no entry need be looked up.
local sure = a.sure and valid and redis.call('HGET', members, '+' .. me) == string.format('%d', a.sure)
  and acknowledge() > 0

local letters, all = { s = {}, r = {} }, true
if not sure then
  for kind, key in pairs(keys) do
    local ids, counts = a.ids[kind], a.counts[kind]
    local held = held_of(key, group, me, valid and ids or {}, a.holds)
    for i, id in ipairs(ids) do
      letters[kind][i] = held[id] == counts[i] and 'h' or 'l'
      all = all and letters[kind][i] == 'h'
    end
  end
end
if not all then
  local before_this = redis.call('GET', receipts) or ''
  for kind, ids in pairs(a.ids) do
    for i, id in ipairs(ids) do
      local token = '|' .. kind .. id .. ' ' .. a.counts[kind][i] .. ' ' .. a.gen .. '|'
      if letters[kind][i] == 'l' and string.find(before_this, token, 1, true) then
        letters[kind][i] = 'r'
      end
    end
  end
  return { table.concat(letters.s), table.concat(letters.r) }
end
if not sure then acknowledge() end

local function hand_back(kind, id, at)
  redis.call('XCLAIM', keys[kind], group, WAITING, 0, id, 'JUSTID')
  redis.call('ZADD', due, at, kind .. id)
end
for _, one in ipairs(a.retries) do
  redis.call('HSET', state, one[1] .. one[2], one[4])
  hand_back(one[1], one[2], now + one[3])
end
for _, one in ipairs(a.releases) do
  hand_back(one[1], one[2], one[3] - 4503599627370496)  -- before all that is due, in order
end
for _, one in ipairs(a.buried) do
  redis.call('XADD', dead, '*', 'id', one[1], 'body', ARGV[one[2]], 'reason', ARGV[one[3]],
    'position', one[4], 'attempt', one[5], 'replays', one[6])
end
if #a.buried > 0 then
  redis.call('HSET', meta, 'dead/' .. group, 1)
  redis.call('XTRIM', dead, 'MAXLEN', a.dead_letters)
  redis.call('XTRIM', dead, 'MINID', math.max(0, now - a.dead_letter_age))
end
if #a.ended.r > 0 and redis.call('XLEN', retry) == 0 then redis.call('DEL', retry) end
for first = 1, #a.forgotten, 1000 do
  redis.call('HDEL', state, unpack(a.forgotten, first, math.min(first + 999, #a.forgotten)))
end
for place, messages in ipairs(a.messages) do
  local first = 7 + 3 * place  -- places count from 1
  local topic = open_topic(registry, KEYS[first], KEYS[first + 1], KEYS[first + 2], a.topics[place])
  store(topic, messages, now)
  close_topic(topic)
  wake(KEYS[first + 1], a.channels[place])
end
apply_changes(a.prefix, a.changes, microseconds())
for _, notice in ipairs(a.notices) do
  local text = notice[2]
  if notice[3] then text = text .. '\n' .. ARGV[notice[3]] end
  redis.call('PUBLISH', notice[1], text)
end
-- A resend of this batch, whose reply may get lost, finds here that it was applied.
if a.doubts then
  redis.call('APPEND', receipts, ARGV[2])
  redis.call('PEXPIRE', receipts, a.keep)
else
  redis.call('SET', receipts, ARGV[2], 'PX', a.keep)
end
-- Kept so that a group that is lost can be made again where it was.
local first = redis.pcall('XPENDING', stream, group, '-', '+', 1)
if not first.err then
  redis.call('HSET', meta, 'floor/' .. group, first[1] and before(first[1][1]) or cursors(stream)[group])
end
if #a.retries + #a.releases > 0 then wake(meta, a.channel) end
return 'a'
