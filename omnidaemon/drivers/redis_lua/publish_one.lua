-- KEYS: registry, receipts, stream, meta. ARGV: topic, wake channel, id, body, batch. The commonest
-- publish by far: one event, now, by one who is sure of what it sent before. Unpacking a map and
-- defining what `publish` needs would cost as much again.
local receipts = redis.call('GET', KEYS[2])
if comes_late(receipts, tonumber(ARGV[5])) then return LATE end
local topic = open_topic(KEYS[1], KEYS[3], KEYS[4], nil, ARGV[1])
add(topic, ARGV[3], ARGV[4])
close_topic(topic)
if topic.idle then wake(topic.meta, ARGV[2]) end
redis.call('SET', KEYS[2], '#' .. ARGV[5], 'EX', 3600)
return { { '' }, {}, topic.opened and 1 or 0 }
