-- Takes over the write lease that was passed on, and leaves the queue.
-- KEYS[1]  the lock key
-- ARGV[1]  the token under which it was passed on
-- ARGV[2]  the token of the new holder
-- ARGV[3]  its life from now, milliseconds
-- ARGV[4]  the queue: a token for each who waits
-- returns  OK, or nil if it took too long and the lease is another's or nobody's
-- Only one key is declared, for the reason that `release.lua` tells. A token that stays in the queue
-- ends with it.
redis.pcall('LREM', ARGV[4], 0, ARGV[2])
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return false
