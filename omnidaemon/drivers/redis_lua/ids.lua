-- Stream ids are compared and stepped as pairs of numbers: as text, '9-0' would follow '10-0'.
local function split(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function less(a, b)
  local am, as = split(a)
  local bm, bs = split(b)
  if am ~= bm then return am < bm end
  return as < bs
end

-- The greatest id below this one: what a group that gets `id` first starts after.
local function before(id)
  local ms, seq = split(id)
  if seq > 0 then return string.format('%.0f-%.0f', ms, seq - 1) end
  if ms > 0 then return string.format('%.0f-18446744073709551615', ms - 1) end
  return '0-0'
end

-- Events are numbered without holes, so that how far a group is behind is a subtraction. The fields
-- of an entry are id, body, and n: its number, and the bytes of all bodies up to it.
local function number(entry)
  local n, pos = string.match(entry[2][6] or '', '^(%d+) (%d+)$')
  return tonumber(n or 0), tonumber(pos or 0)
end
