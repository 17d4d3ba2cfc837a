-- KEYS: registry, receipts, stream, meta. ARGV: topic, wake channel, id, body, batch. The commonest
-- publish by far: one event, now, by one who is sure of what it sent before. Unpacking a map and
-- defining what `publish` needs would cost as much again. Returns 1 if the topic was not there before.
local receipts = redis.call('SET', KEYS[2], '#' .. ARGV[5], 'EX', 3600, 'GET')
if comes_late(receipts, tonumber(ARGV[5])) then
  redis.call('SET', KEYS[2], receipts, 'EX', 3600)
  return late()
end
local topic = open_topic(KEYS[1], KEYS[3], KEYS[4], nil, ARGV[1])
add(topic, ARGV[3], ARGV[4])
close_topic(topic)
if topic.idle then wake(topic.meta, ARGV[2]) end
return topic.opened and 1 or 0
