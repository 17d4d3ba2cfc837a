-- KEYS: dead letters. Those of one event among the next 500, newest first, and from where to look
-- on (nothing: all seen).
local a = cmsgpack.unpack(ARGV[1])
local found = {}
local rows = redis.call('XREVRANGE', KEYS[1], a.from, a.to, 'COUNT', 500)
for _, row in ipairs(rows) do
  if row[2][2] == a.id then found[#found + 1] = row end
end
return { found, #rows == 500 and '(' .. rows[500][1] or '' }
