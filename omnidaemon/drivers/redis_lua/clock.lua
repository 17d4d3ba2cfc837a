-- Milliseconds since 1970 by the server's clock: the only one that all workers share.
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
