-- The first part of a commit: nothing is written if a key is of another type than it is written as.
-- KEYS[1]: a key that is never there; more of them only for the server to know. All are in one slot.
-- ARGV[1]: how many of the arguments behind it are questions; the rest are writes. Each is an array
-- in MessagePack: of questions, which are pairs of a command and the reply that it had, or of
-- commands and calls of functions.
-- Returns {} when all is written; {'wrong', key, its type, the right one} or {'changed', key} when
-- nothing is; {'refused', why} when the server refused a write, of which it does not undo the others.
-- Hashes are rows: they are watched, or there are questions about them.
local types = {
  SADD = 'set', SREM = 'set', ZADD = 'zset', ZREM = 'zset', settle = 'zset', raise = 'string', give_back = 'string',
}
local questions, known, sets = tonumber(ARGV[1]), {}, {}
-- Of one argument, what is in it is kept: most commits have no more writes.
local at, items
local function items_of(n)
  if n ~= at then at, items = n, cmsgpack.unpack(ARGV[n]) end
  return items
end
local function wrong_key(key, right)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= right then return {'wrong', key, found, right} end
end
-- Most are sets. A difference with nothing is nothing, but all of the keys must be sets.
local function wrong_set()
  local reply = redis.pcall('SDIFF', KEYS[1], unpack(sets))
  if not reply.err then sets = {} return end
  for _, key in ipairs(sets) do
    local wrong = wrong_key(key, 'set')
    if wrong then return wrong end
  end
  return reply
end
for n = questions + 2, #ARGV do
  for _, command in ipairs(items_of(n)) do
    local right, key = types[command[1]], command[2]
    if right and not known[key] then
      known[key] = true
      local wrong
      if right ~= 'set' then
        wrong = wrong_key(key, right)
      else
        sets[#sets + 1] = key
        if #sets == 1000 then wrong = wrong_set() end
      end
      if wrong then return wrong end
    end
  end
end
local wrong = #sets > 0 and wrong_set()
if wrong then return wrong end
