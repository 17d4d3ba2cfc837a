-- KEYS: delayed events of a topic. Looks from the score `from` on, past the first `skip` of that very
-- score, for the one with the event's id. Returns it and when it is due, or from where to look on
-- (nothing: all seen). By score, not by rank: meanwhile some may come due and go.
local a = cmsgpack.unpack(ARGV[1])
local wanted = string.format('%08x', #a.id) .. a.id
local rows = redis.call('ZRANGEBYSCORE', KEYS[1], a.from, '+inf', 'WITHSCORES', 'LIMIT', a.skip, 500)
for i = 1, #rows, 2 do
  if string.sub(rows[i], 17, 16 + #wanted) == wanted then return { rows[i], rows[i + 1] } end
end
if #rows < 1000 then return {} end
local last, skip = rows[#rows], 0
for i = #rows, 2, -2 do
  if rows[i] ~= last then break end
  skip = skip + 1
end
if skip == 500 and last == a.from then skip = skip + a.skip end
return { '', last, skip }
