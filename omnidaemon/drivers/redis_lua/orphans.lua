-- Hands back, uncharged, what a consumer has pending and does not know of: the replies that leased
-- it were cut off, or came when nobody waited any more. `known` is 'kind id count' of the rest.
local function hand_back_unknown(keys, due, group, consumer, known)
  local mine, found = {}, false
  for _, token in ipairs(known) do mine[token] = true end
  for kind, key in pairs(keys) do
    if redis.call('EXISTS', key) == 1 then
      for _, row in ipairs(redis.call('XPENDING', key, group, '-', '+', 100000, consumer)) do
        if not mine[kind .. row[1] .. ' ' .. row[4]] then
          redis.call('XCLAIM', key, group, WAITING, 0, row[1], 'JUSTID')
          redis.call('ZADD', due, -4503599627370496, kind .. row[1])  -- before all that is due
          found = true
        end
      end
    end
  end
  return found
end
