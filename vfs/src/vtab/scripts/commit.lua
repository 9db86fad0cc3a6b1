-- Writes a commit, unless a key is of another type than it is written as, or what the commit rests on
-- has changed.
-- KEYS[1]: a key that is never there. All that it asks and writes are in the same slot.
-- ARGV[1]: how many of the arguments behind it are questions; the rest are writes. Each is an array
-- in MessagePack: of questions, which are pairs of a command and the reply that it had, or of
-- commands and calls of functions.
-- Returns {} when all is written; {'wrong', key, its type, the right one} or {'changed', key} when
-- nothing is; {'refused', why} when the server refused a write, of which it does not undo the others.
local types = {
  HSET = 'hash', HDEL = 'hash', SADD = 'set', SREM = 'set', ZADD = 'zset', ZREM = 'zset',
  settle = 'zset', raise = 'string', give_back = 'string',
}
local function is_same(name, now, before)
  if type(now) ~= 'table' then return now == before end
  if now.err or #now ~= #before then return false end
  -- Fields and members come in any order.
  local step = ({HGETALL = 2, SMEMBERS = 1})[name]
  local found = {}
  for n = 1, #now, step or 1 do
    if step then found[now[n]] = step == 1 or now[n + 1] else found[n] = now[n] end
  end
  for n = 1, #before, step or 1 do
    local key, value = before[n], step == 1 or before[n + 1]
    if not step then key, value = n, before[n] end
    if found[key] ~= value then return false end
  end
  return true
end
local questions, known = tonumber(ARGV[1]), {}
for n = questions + 2, #ARGV do
  for _, command in ipairs(cmsgpack.unpack(ARGV[n])) do
    local right, key = types[command[1]], command[2]
    if right and not known[key] then
      known[key] = true
      local found = redis.call('TYPE', key).ok
      if found ~= 'none' and found ~= right then return {'wrong', key, found, right} end
    end
  end
end
for n = 2, questions + 1 do
  for _, question in ipairs(cmsgpack.unpack(ARGV[n])) do
    local command, before = question[1], question[2]
    if not is_same(command[1], redis.pcall(unpack(command)), before) then return {'changed', command[2]} end
  end
end
local why
for n = questions + 2, #ARGV do
  for _, command in ipairs(cmsgpack.unpack(ARGV[n])) do
    local call = functions[command[1]]
    if call then
      local done, error = pcall(call, unpack(command, 2))
      if not done then why = why or tostring(type(error) == 'table' and error.err or error) end
    else
      local reply = redis.pcall(unpack(command))
      if type(reply) == 'table' and reply.err then why = why or reply.err end
    end
  end
end
return why and {'refused', why} or {}
