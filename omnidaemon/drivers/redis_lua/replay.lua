-- KEYS: stream, meta, due, retry, state, dead letters. Hands dead letters back to their group: those
-- with the ids, or all that there are now, with their own body or that at place `body` in ARGV.
-- They come from a stream of their own, because their
-- event may be trimmed, and wait in it as what was handed back does.
local a = cmsgpack.unpack(ARGV[1])
local stream, meta, due, retry, state, dead = unpack(KEYS)
local now = clock()
redis.call('XTRIM', dead, 'MINID', string.format('%.0f', math.max(0, now - a.dead_letter_age)))
if redis.call('HEXISTS', meta, 'gen/' .. a.group) == 0 then return 0 end
local letters = {}
if a.ids then
  for _, id in ipairs(a.ids) do letters[#letters + 1] = redis.call('XRANGE', dead, id, id)[1] end
else
  letters = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1000)
end
if #letters == 0 then return 0 end
if redis.call('EXISTS', retry) == 0 then
  redis.call('XGROUP', 'CREATE', retry, a.group, '0', 'MKSTREAM')
end
for _, letter in ipairs(letters) do
  local field = {}
  for i = 1, #letter[2], 2 do field[letter[2][i]] = letter[2][i + 1] end
  local id = redis.call('XADD', retry, '*', 'id', field.id, 'body', a.body and ARGV[a.body] or field.body,
    'n', '0 0', 'position', field.position)
  redis.call('XREADGROUP', 'GROUP', a.group, WAITING, 'COUNT', 1, 'STREAMS', retry, '>')
  redis.call('HSET', state, 'r' .. id, '1 0 ' .. (field.replays + 1))
  redis.call('ZADD', due, string.format('%.0f', now), 'r' .. id)
  redis.call('XDEL', dead, letter[1])
end
wake(meta, a.channel)
return #letters
