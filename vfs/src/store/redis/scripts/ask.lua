-- Stands in line for the write lease. A lease that nobody holds is passed on at once.
-- KEYS[1]  the lock key
-- KEYS[2]  the queue: a token for each who waits
-- KEYS[3]  the turn: what they wait for
-- ARGV[1]  the token of the one who asks
-- ARGV[2]  the token under which the lease is passed on
-- ARGV[3]  how long it waits to be taken over, milliseconds
-- ARGV[4]  life of the queue from now, milliseconds
-- returns  the token under which the lease is held
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3]) then
  redis.call('DEL', KEYS[3])
  redis.call('LPUSH', KEYS[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
return redis.call('GET', KEYS[1])
