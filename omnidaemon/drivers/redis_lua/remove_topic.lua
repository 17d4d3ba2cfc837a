-- KEYS: registry, stream, meta, delayed; then members, due, retry, state, dead letters of each group.
local a = cmsgpack.unpack(ARGV[1])
local meta = KEYS[3]
if redis.call('SREM', KEYS[1], a.topic) == 0 then return 0 end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
for _, group in ipairs(a.groups) do redis.call('HSET', meta, 'removed/' .. group, 1) end
redis.call('EXPIRE', meta, 604800)  -- a week: by then every running consumer has seen it
redis.call('PUBLISH', a.channel, '')
return 1
