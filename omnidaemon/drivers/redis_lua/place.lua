-- KEYS: stream, meta, due, retry, state, dead letters. Where an event stands in one group;
-- `position` is its place in the stream, '' if it is not there (any more).
local a = cmsgpack.unpack(ARGV[1])
local stream, meta, due, retry, state, dead = unpack(KEYS)
local group = a.group
local function open(kind, key, id)
  local row = redis.call('XPENDING', key, group, id, id, 1)[1]
  if not row then return nil end
  local runs = redis.call('HGET', state, kind .. id) or '1 0 0'
  local attempt, _, replays = string.match(runs, '^(%d+) (%d+) (%d+)$')
  if row[2] ~= WAITING then return { 'running', tonumber(attempt) } end
  local at = tonumber(redis.call('ZSCORE', due, kind .. id) or 0)
  local never_run = tonumber(replays) > 0 and tonumber(attempt) == 1
  return { (at < 0 or never_run) and 'pending' or 'waiting', tonumber(attempt) }
end
local cursor = cursors(stream)[group]
if cursor and redis.call('EXISTS', retry) == 1 then
  for _, row in ipairs(redis.call('XREVRANGE', retry, '+', '-', 'COUNT', 10000)) do
    if row[2][2] == a.id then return open('r', retry, row[1]) end
  end
end
local there = cursor and a.position ~= '' and open('s', stream, a.position)
if there then return there end
for _, row in ipairs(redis.call('XREVRANGE', dead, '+', '-', 'COUNT', 10000)) do
  if row[2][2] == a.id then return { 'dead', tonumber(row[2][10]) } end
end
if not cursor or a.position == '' then return false end
return { less(cursor, a.position) and 'pending' or 'settled', 1 }
