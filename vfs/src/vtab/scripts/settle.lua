-- Takes values out of an index that no row has any more.
-- KEYS: pairs of a value's set of rowids and the sorted set that the value is a member of.
-- ARGV: the member for each pair.
-- Returns how many were taken out.
local gone = 0
for n = 1, #ARGV do
  if redis.call('EXISTS', KEYS[2 * n - 1]) == 0 then
    gone = gone + redis.call('ZREM', KEYS[2 * n], ARGV[n])
  end
end
return gone
