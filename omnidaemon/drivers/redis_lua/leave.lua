-- KEYS: stream, meta, members, due, retry. Forgets a consumer; what it holds stays its own until the
-- lease ends.
local a = cmsgpack.unpack(ARGV[1])
local stream, meta, members, due, retry = unpack(KEYS)
local now = clock()
pardon(meta, members, a.group, now)
redis.call('HDEL', members, a.consumer, '+' .. a.consumer)
if redis.call('HEXISTS', meta, 'gen/' .. a.group) == 0 then return end
if a.known and redis.call('EXISTS', stream) == 1 then
  hand_back_unknown({ s = stream, r = retry }, due, a.group, a.consumer, a.known)
end
redis.call('HSET', meta, 'seen/' .. a.group, string.format('%.0f', now))
live(meta, members, a.group, now)
wake(meta, a.channel)  -- the lease may be shorter now
-- Deleting a consumer discards what it has pending, so only one without is deleted.
local rows = redis.pcall('XPENDING', stream, a.group, '-', '+', 1, a.consumer)
if not rows.err and #rows == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, a.group, a.consumer) end
