-- Moves some staged pages to their place in the hash, then takes away some of those that the new
-- version does not have. To be repeated until nothing is left.
-- KEYS[1]  the hash
-- KEYS[2]  the staged pages
-- ARGV[1]  id of the commit that staged them
-- ARGV[2]  about how many at once
-- ARGV[3]  where to go on: '0' at first, then what was returned last
-- returns  where to go on, or 0 if nothing is left or another commit has come
if redis.call('HGET', KEYS[1], 'commit') ~= ARGV[1] or redis.call('HGET', KEYS[2], 'commit') ~= ARGV[1] then
  return 0
end
local most, moved, cursor = tonumber(ARGV[2]), 0, ARGV[3]
repeat
  local found = redis.call('HSCAN', KEYS[2], cursor, 'COUNT', most)
  cursor = found[1]
  for i = 1, #found[2], 2 do
    local field = found[2][i]
    if string.find(field, '^page%d') then
      redis.call('HSET', KEYS[1], field, found[2][i + 1])
      redis.call('HDEL', KEYS[2], field)
      moved = moved + 1
    end
  end
until moved >= most or cursor == '0'
-- Nothing is left when a pass from the start has found nothing.
if moved > 0 or ARGV[3] ~= '0' then
  return cursor
end
local count = tonumber(redis.call('HGET', KEYS[1], 'page_count'))
local before = tonumber(redis.call('HGET', KEYS[2], 'page_count'))
-- Where there are no more fields than this version has, nothing is left to take away, whatever the number says.
if not before or redis.call('HLEN', KEYS[1]) <= count + 6 then
  before = count
end
local last = math.max(count, before - most)
for page = last + 1, before do
  redis.call('HDEL', KEYS[1], 'page' .. page)
end
redis.call('HSET', KEYS[2], 'page_count', last)
if last > count then
  return cursor
end
redis.call('HSET', KEYS[1], 'format', 1)
redis.call('DEL', KEYS[2])
return 0
