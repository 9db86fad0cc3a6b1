-- Writes a large commit, unless what it rests on has changed.
-- KEYS[1]: one of the table's keys. All that it asks and writes are in the same slot.
-- ARGV[1]: how many of the arguments behind it are questions; the rest are writes. Each is an array
-- in MessagePack: of questions, which are pairs of a command and the reply that it had, or of
-- commands.
-- Returns {} when all is written; {'changed', key} when nothing is; {'refused', why} when the server
-- refused a write, of which it does not undo the others.
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
local questions = tonumber(ARGV[1])
for n = 2, questions + 1 do
  for _, question in ipairs(cmsgpack.unpack(ARGV[n])) do
    local command, before = question[1], question[2]
    if not is_same(command[1], redis.pcall(unpack(command)), before) then return {'changed', command[2]} end
  end
end
local why
for n = questions + 2, #ARGV do
  for _, command in ipairs(cmsgpack.unpack(ARGV[n])) do
    local reply = redis.pcall(unpack(command))
    if type(reply) == 'table' and reply.err then why = why or reply.err end
  end
end
return why and {'refused', why} or {}
