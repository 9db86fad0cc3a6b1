-- Keeps the write lease for the next transaction, if it is still held under this token.
-- KEYS[1]  the lock key
-- ARGV[1]  the token
-- ARGV[2]  its life from now, milliseconds
-- ARGV[3]  the queue: a token for each who waits; declared by no key, see release.lua
-- returns  how many wait for it, or nil if another holds it or nobody
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local waiting = redis.pcall('LLEN', ARGV[3])
return type(waiting) == 'number' and waiting or 0
