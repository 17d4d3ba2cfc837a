-- Wakes who waits on a topic, if anybody does: a claim that finds nothing leaves word.
local function wake(meta, channel)
  if redis.call('HDEL', meta, 'idle') == 1 then redis.call('PUBLISH', channel, '') end
end
