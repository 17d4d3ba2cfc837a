-- KEYS: a stream. Looks from `from` down for the newest entry with the event's id.
-- Returns the entry's id and nothing, or nothing and from where to look on (nothing: all seen).
local a = cmsgpack.unpack(ARGV[1])
local rows = redis.call('XREVRANGE', KEYS[1], a.from, a.to, 'COUNT', 500)
for _, row in ipairs(rows) do
  if row[2][2] == a.id then return { row[1], '' } end
end
return { '', #rows == 500 and before(rows[500][1]) or '' }
