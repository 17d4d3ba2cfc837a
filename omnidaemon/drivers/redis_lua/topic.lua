-- Topics that a script adds events to: how many there are, and their bytes, read and written once.
local function open_topic(registry, stream, meta, delayed, topic)
  local known = redis.call('HMGET', meta, 'n', 'pos', 'idle')
  if not known[1] then
    redis.call('SADD', registry, topic)
    redis.call('PERSIST', meta)  -- what remains of a removed topic expires; this one lives
  end
  return { stream = stream, meta = meta, delayed = delayed, idle = known[3], opened = not known[1],
    n = tonumber(known[1] or 0), pos = tonumber(known[2] or 0) }
end

local function add(topic, id, body)
  local n, pos = topic.n + 1, topic.pos + #body
  topic.n, topic.pos = n, pos
  redis.call('XADD', topic.stream, '*', 'id', id, 'body', body, 'n', string.format('%d %d', n, pos))
end

local function close_topic(topic)
  redis.call('HSET', topic.meta, 'n', string.format('%d', topic.n),
    'pos', string.format('%d', topic.pos))  -- Redis takes longer to write a number out
end

-- Stores messages: id, place of the body in ARGV, delay in ms; and the next three.
local function store(topic, messages, now)
  for i = 1, #messages, 3 do
    local id, body, delay = messages[i], ARGV[messages[i + 1]], messages[i + 2]
    if delay > 0 then
      -- Numbered, because two equal members of a sorted set would be one.
      local member = string.format('%016d%08x', redis.call('HINCRBY', topic.meta, 'later', 1), #id)
      redis.call('ZADD', topic.delayed, now + delay, member .. id .. body)
    else
      add(topic, id, body)
    end
  end
end

-- Makes events of the delayed messages that are due; returns when the next one is, or nil.
-- Each member goes right after its event is there: no crash between the two can lose it.
local function ripen(registry, stream, meta, delayed, name, now)
  if redis.call('EXISTS', delayed) == 0 then return nil end
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 500)
  for _, member in ipairs(due) do
    local topic = open_topic(registry, stream, meta, delayed, name)
    local length = tonumber(string.sub(member, 17, 24), 16)
    add(topic, string.sub(member, 25, 24 + length), string.sub(member, 25 + length))
    close_topic(topic)
    redis.call('ZREM', delayed, member)
  end
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end
