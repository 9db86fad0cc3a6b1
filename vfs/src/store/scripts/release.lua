-- Gives the write lease back, if it is still held under this token.
-- KEYS[1]  the lock key
-- ARGV[1]  the token
-- returns  1 if it was given back, 0 if another holds it or nobody
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
