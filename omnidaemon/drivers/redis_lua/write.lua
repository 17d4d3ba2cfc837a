-- Applies changes of the store, and removes what has expired where nothing is written any more.
local a = cmsgpack.unpack(ARGV[1])
local now = microseconds()
apply_changes(a.prefix, a.changes, now)
for _, collection in ipairs(a.collections) do sweep(a.prefix, collection, now, SWEPT) end
