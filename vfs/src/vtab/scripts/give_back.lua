-- Gives rowids back that were taken from the counter and not used, if they are the last taken.
-- KEYS[1]: the counter. ARGV[1]: where it was left. ARGV[2]: where to put it.
-- Returns 1 if they were given back.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
  return 1
end
return 0
