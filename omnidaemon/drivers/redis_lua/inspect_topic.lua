-- KEYS: registry, stream, meta, delayed. Returns events, bytes, delayed, the names of groups and of
-- those with dead letters, and the memory of all; nothing if there is no such topic.
local a = cmsgpack.unpack(ARGV[1])
local registry, stream, meta, delayed = unpack(KEYS)
if redis.call('HEXISTS', meta, 'n') == 0 then return false end
local now = clock()
for _ = 1, 20 do  -- some at a time, and all but for very many
  local next_delayed = ripen(registry, stream, meta, delayed, a.topic, now)
  if not next_delayed or next_delayed > now then break end
end
local groups, dead = {}, {}
for _, field in ipairs(redis.call('HKEYS', meta)) do
  local kind, name = string.match(field, '^(%l+)/(.*)$')
  if kind == 'gen' then groups[#groups + 1] = name end
  if kind == 'dead' then dead[#dead + 1] = name end
end
local _, before_first = number_at(stream, meta, '0-0')
local pos = tonumber(redis.call('HGET', meta, 'pos'))
local events = redis.call('XLEN', stream)
local memory = 0
for _, key in ipairs({ stream, meta, delayed }) do
  memory = memory + (redis.call('MEMORY', 'USAGE', key) or 0)
end
local bytes = events > 0 and pos - before_first or 0
return { events, bytes, redis.call('ZCARD', delayed), groups, dead, memory }
