-- Of what settlements in other slots have left here: a sorted set of their names, by when each is
-- forgotten. A name stays for a day, and for `keep` ms once its settlement is done: then only one
-- who lost the delivery just after it had asked could come with it. The oldest go beyond a bound.
local DAY, MOST = 86400000, 100000

local function seen(once, names)
  local found = {}
  for first = 1, #names, 1000 do
    local last = math.min(first + 999, #names)
    for _, score in ipairs(redis.call('ZMSCORE', once, unpack(names, first, last))) do
      found[#found + 1] = score and true or false
    end
  end
  return found
end

local function remember(once, names, settled, now, keep)
  for _, name in ipairs(settled) do redis.call('ZADD', once, 'XX', now + keep, name) end
  for _, name in ipairs(names) do redis.call('ZADD', once, now + DAY, name) end
  redis.call('ZREMRANGEBYSCORE', once, '-inf', now)
  redis.call('ZREMRANGEBYRANK', once, 0, -(MOST + 1))
  redis.call('PEXPIRE', once, DAY)
end
