-- A step that was given up and sent again on another connection may arrive after its successor: what
-- carries it may have held it back. Each step of one sender has a number, and none goes backwards.
local function comes_late(receipts, number)
  local last = receipts and string.match(receipts, '.*#(%d+)')
  return last and tonumber(last) > number
end
local function late()
  return redis.error_reply('LATE a later step of this sender has been taken already')
end
