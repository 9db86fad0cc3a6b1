-- Prolongs the write lease, if it is still held under this token.
-- KEYS[1]  the lock key
-- ARGV[1]  the token
-- ARGV[2]  its life from now, milliseconds
-- returns  1 if it was prolonged, 0 if another holds it or nobody
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
