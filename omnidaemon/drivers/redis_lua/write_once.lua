-- KEYS: once, then those of the collections. Applies what settlements in other slots change, if none
-- of them has done so before; else changes nothing and returns the places of those that have.
local a = cmsgpack.unpack(ARGV[1])
local once, now, before = KEYS[1], microseconds(), {}
for place, known in ipairs(seen(once, a.names)) do
  if known then before[#before + 1] = place - 1 end
end
if #before > 0 then return before end
apply_changes(a.prefix, a.changes, now)
remember(once, a.names, a.settled, math.floor(now / 1000), a.keep)
return before
