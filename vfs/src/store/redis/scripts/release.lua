-- Gives the write lease back, if it is still held under this token: to the one who waits longest,
-- or to nobody.
-- KEYS[1]  the lock key
-- ARGV[1]  the token
-- ARGV[2]  the end of the token under which the lease is passed on; it begins like that of the one who waits
-- ARGV[3]  how long it waits to be taken over, milliseconds
-- ARGV[4]  the queue: a token for each who waits
-- ARGV[5]  the turn: what they wait for
-- returns  1 if it was given back, 0 if another holds it or nobody
-- A Cluster refuses commands on several keys while their slot moves to another node, so only the one
-- that matters is declared; the others are in its slot.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
-- Where memory, access rules or a move of the slot forbid to pass it on, it is given back to nobody.
local waiting = redis.pcall('LPOP', ARGV[4])
if type(waiting) == 'string' then
  local token = (string.match(waiting, '^.*/') or '') .. ARGV[2]
  redis.call('DEL', ARGV[5])
  if type(redis.pcall('LPUSH', ARGV[5], token)) == 'number' then
    redis.call('PEXPIRE', ARGV[5], ARGV[3])
    redis.call('SET', KEYS[1], token, 'PX', ARGV[3])
    return 1
  end
end
return redis.call('DEL', KEYS[1])
