-- The first part of a commit: nothing is written if a key is of another type than it is written as.
-- KEYS: one that is never there, then sets, sorted sets, strings, and others: rows, which are watched
-- or asked about, and what may be of any type. All are in one slot.
-- ARGV[1], in MessagePack: the numbers of the last set, sorted set and string, and of the last argument
-- with questions. The rest are writes. Each is an array in MessagePack of commands and calls of functions,
-- the count of its words before each, and keys by their numbers; a question is followed by the reply that
-- it had.
-- Returns {} when all is written; {'wrong', key, its type, the right one} or {'changed', key} when
-- nothing is; {'refused', why} when the server refused a write, of which it does not undo the others.
local call, keys, type, unpack = redis.pcall, KEYS, type, unpack
local last_set, last_sorted, last_string, last_question = cmsgpack.unpack(ARGV[1])
local function wrong_key(from, to, right)
  for n = from, to do
    local found = redis.call('TYPE', keys[n]).ok
    if found ~= 'none' and found ~= right then return {'wrong', keys[n], found, right} end
  end
end
-- A difference with nothing is nothing, but all of the keys must be sets.
for from = 2, last_set, 1000 do
  local to = math.min(from + 999, last_set)
  local reply = call('SDIFF', keys[1], unpack(keys, from, to))
  if reply.err then return wrong_key(from, to, 'set') or reply end
end
for n = last_set + 1, last_string do
  local right, asks = 'zset', 'ZCARD'
  if n > last_sorted then right, asks = 'string', 'GET' end
  local reply = call(asks, keys[n])
  if type(reply) == 'table' then return wrong_key(n, n, right) or reply end
end
