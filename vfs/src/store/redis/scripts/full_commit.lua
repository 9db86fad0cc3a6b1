-- Commits on a server that is at its memory limit; see full_take.lua. Log and undo data go, for the memory that they
-- take. To be called only for commits after which the database needs less.
-- KEYS[1]  the hash
-- KEYS[2]  the log
-- KEYS[3]  the undo data
-- ARGV[1]  version of the base
-- ARGV[2]  id of the commit that made it
-- ARGV[3]  how many fields are removed
-- ARGV[4]  how many words with fields and values are set
-- ARGV[5]  id of the log entry
-- further  the fields to remove; fields and values to set; those of the log entry
-- returns  1, or 0 if the hash is not at the base
local at = redis.call('HMGET', KEYS[1], 'version', 'commit', 'format')
if at[1] ~= ARGV[1] or at[2] ~= ARGV[2] or at[3] ~= '1' then
  return 0
end
redis.call('DEL', KEYS[2], KEYS[3])
local next = 6
for _ = 1, ARGV[3] do
  redis.call('HDEL', KEYS[1], ARGV[next])
  next = next + 1
end
for _ = 1, ARGV[4], 2 do
  redis.call('HSET', KEYS[1], ARGV[next], ARGV[next + 1])
  next = next + 2
end
redis.call('PERSIST', KEYS[1])
redis.call('XADD', KEYS[2], ARGV[5], unpack(ARGV, next))
return 1
