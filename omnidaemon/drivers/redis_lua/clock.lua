-- The server's clock: the only one that all workers share. Microseconds, and milliseconds, since 1970.
local function microseconds()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function clock() return math.floor(microseconds() / 1000) end
