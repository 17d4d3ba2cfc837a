-- Which of these ids the consumer holds, and how often each was delivered, which is its fence.
-- One XPENDING over all it holds, if that is not much more than asked for: its COUNT must cover
-- them all, or what the consumer holds in between would hide the rest. Else one range per id.
local function held_of(key, group, consumer, ids, holds)
  local counts = {}
  if #ids == 0 or redis.call('EXISTS', key) == 0 then return counts end
  if holds <= 2 * #ids then
    local rows = redis.call('XPENDING', key, group, '-', '+', holds, consumer)
    for _, row in ipairs(rows) do counts[row[1]] = row[4] end
    if #rows < holds then return counts end
  end
  for _, id in ipairs(ids) do
    local row = redis.call('XPENDING', key, group, id, id, 1, consumer)[1]
    counts[id] = row and row[4]
  end
  return counts
end
