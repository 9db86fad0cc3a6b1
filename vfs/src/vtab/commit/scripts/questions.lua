-- The second part of a commit: nothing is written if a reply is another now.
-- Puts keys in the place of their numbers, in the command that begins at `at`. Returns where it ends.
local function with_keys(items, at)
  local last, n = at + items[at], at + 2
  repeat
    items[n] = keys[items[n]]
    n = n + 1
  until n > last or type(items[n]) ~= 'number'
  return last
end
local function is_same(name, now, before)
  if type(now) ~= 'table' then return now == before end
  if now.err or #now ~= #before then return false end
  -- Fields and members come in any order.
  local step = ({HGETALL = 2, SMEMBERS = 1})[name]
  local found = {}
  for n = 1, #now, step or 1 do
    if step then found[now[n]] = step == 1 or now[n + 1] else found[n] = now[n] end
  end
  for n = 1, #before, step or 1 do
    local key, value = before[n], step == 1 or before[n + 1]
    if not step then key, value = n, before[n] end
    if found[key] ~= value then return false end
  end
  return true
end
for n = 2, last_question do
  local items, at = cmsgpack.unpack(ARGV[n]), 1
  while items[at] do
    local last = with_keys(items, at)
    local now = call(unpack(items, at + 1, last))
    -- What may not be asked is an error; another type is a change.
    if type(now) == 'table' and now.err and not string.find(now.err, 'WRONGTYPE') then return now end
    if not is_same(items[at + 1], now, items[last + 1]) then
      return {'changed', items[at + 2]}
    end
    at = last + 2
  end
end
