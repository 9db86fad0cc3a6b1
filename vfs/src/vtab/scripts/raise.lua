-- Raises the rowid counter to a rowid that was given, unless it is there already.
-- KEYS[1]: the counter. ARGV[1]: the rowid, more than 0.
-- Returns 1 if it was raised.
-- Numbers are compared as text: Lua's have only 53 bits.
local now = redis.call('GET', KEYS[1])
if now and string.sub(now, 1, 1) ~= '-' then
  if #now > #ARGV[1] or (#now == #ARGV[1] and now >= ARGV[1]) then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
