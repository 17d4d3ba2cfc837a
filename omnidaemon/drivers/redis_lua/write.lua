-- Applies changes of the store.
local a = cmsgpack.unpack(ARGV[1])
apply_changes(a.prefix, a.changes, clock())
