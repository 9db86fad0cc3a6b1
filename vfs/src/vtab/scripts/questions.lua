-- The second part of a commit: nothing is written if a reply is another now.
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
for n = 2, questions + 1 do
  for _, question in ipairs(cmsgpack.unpack(ARGV[n])) do
    local command, before = question[1], question[2]
    if not is_same(command[1], redis.pcall(unpack(command)), before) then return {'changed', command[2]} end
  end
end
