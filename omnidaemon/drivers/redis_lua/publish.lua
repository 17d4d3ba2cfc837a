-- KEYS: registry, receipts; then stream, meta and delayed of each topic. A call is
-- { sent before as, topic's place, its messages (as `store` takes them), the next topic's... }.
-- Returns for each call '' if stored, or the place of the topic that is full and what it holds; which
-- of the doubtful batches had been stored; and 1 if a topic was not there before.
local a = cmsgpack.unpack(ARGV[1])
local registry, receipts, now = KEYS[1], KEYS[2], a.timed and clock() or 0
local DAY = 86400000

local receipt, stored_before = redis.call('GET', receipts) or '', {}
if comes_late(receipt, a.batch) then return late() end
if #a.doubts > 0 then
  for batch in string.gmatch(receipt, '%d+') do
    stored_before[batch] = true
  end
end

-- Events that the slowest group has not settled. Groups unseen for a day do not count.
local function unsettled(stream, meta, delayed)
  local n = tonumber(redis.call('HGET', meta, 'n') or 0)
  local later, most, groups = redis.call('ZCARD', delayed), 0, cursors(stream)
  if not next(groups) then return later + n - number_at(stream, meta, topic_floor(stream, meta)) end
  for name, cursor in pairs(groups) do
    local seen = tonumber(redis.call('HGET', meta, 'seen/' .. name) or 0)
    if now - seen < DAY then
      local open = redis.call('XPENDING', stream, name)[1]
      most = math.max(most, n - number_at(stream, meta, cursor) + open)
    end
  end
  return later + most
end

local held = {}
local function refusal(call)
  for i = 2, #call, 2 do
    local place, count = call[i], #call[i + 1] / 3
    local first = 3 * place
    held[place] = held[place] or unsettled(KEYS[first], KEYS[first + 1], KEYS[first + 2])
    if held[place] + count > a.bound then return { place, held[place], count } end
  end
  for i = 2, #call, 2 do held[call[i]] = held[call[i]] + #call[i + 1] / 3 end
end

local topics, answers = {}, {}
for c, call in ipairs(a.calls) do
  local known = false
  for _, batch in ipairs(call[1]) do known = known or stored_before[tostring(batch)] end
  local full = not known and a.bound >= 0 and refusal(call)
  if not known and not full then
    for i = 2, #call, 2 do
      local place, first = call[i], 3 * call[i]
      topics[place] = topics[place] or open_topic(registry, KEYS[first], KEYS[first + 1],
        KEYS[first + 2], a.topics[place])
      store(topics[place], call[i + 1], now)
    end
  end
  answers[c] = full or ''
end
local opened = 0
for place, topic in pairs(topics) do
  if topic.opened then opened = 1 end
  close_topic(topic)
  if topic.idle then wake(topic.meta, a.channels[place]) end
end
-- Receipts are added up only while the caller does not know what became of a batch.
redis.call('SET', receipts, (#a.doubts > 0 and receipt or '') .. '#' .. a.batch, 'EX', 3600)
local confirmed = {}
for _, batch in ipairs(a.doubts) do
  if stored_before[tostring(batch)] then confirmed[#confirmed + 1] = batch end
end
return { answers, confirmed, opened }
