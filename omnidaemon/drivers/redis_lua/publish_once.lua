-- KEYS: registry, stream, meta, delayed, once. Stores what settlements in other slots publish to a
-- topic, but for what they have published before. Returns 1 if the topic was not there before.
local a = cmsgpack.unpack(ARGV[1])
local registry, stream, meta, delayed, once = unpack(KEYS)
local now, known, fresh, names = clock(), seen(once, a.names), {}, {}
for i, name in ipairs(a.names) do
  if not known[i] then
    names[#names + 1] = name
    for field = 3 * i - 2, 3 * i do fresh[#fresh + 1] = a.messages[field] end
  end
end
local opened = 0
if #fresh > 0 then
  local topic = open_topic(registry, stream, meta, delayed, a.topic)
  if topic.opened then opened = 1 end
  store(topic, fresh, now)
  close_topic(topic)
  if topic.idle then wake(meta, a.channel) end
end
remember(once, names, a.settled, now, a.keep)
return opened
