-- What no command of Redis does at once. Each is called by itself, or as a write of a commit.
local functions = {}

-- Raises the rowid counter to a rowid that was given, more than 0, unless it is there already.
-- Returns 1 if it was raised.
function functions.raise(counter, rowid)
  -- Numbers are compared as text: Lua's have only 53 bits.
  local now = redis.call('GET', counter)
  if now and string.sub(now, 1, 1) ~= '-' then
    if #now > #rowid or (#now == #rowid and now >= rowid) then return 0 end
  end
  redis.call('SET', counter, rowid)
  return 1
end

-- Gives rowids back that were taken from the counter and not used, if they are the last taken: the
-- counter was left at `last`, and is put to `next`.
-- Returns 1 if they were given back.
function functions.give_back(counter, last, next)
  if redis.call('GET', counter) ~= last then return 0 end
  if next == '0' then redis.call('DEL', counter) else redis.call('SET', counter, next) end
  return 1
end

-- Takes a value out of its index if no row has it any more: `set` is that of its rowids.
-- Returns 1 if it was taken out.
function functions.settle(values, set, member)
  if redis.call('EXISTS', set) == 1 then return 0 end
  return redis.call('ZREM', values, member)
end

-- Renames a key, if it is there.
-- Returns 1 if it was.
function functions.move(key, to)
  if redis.call('EXISTS', key) == 0 then return 0 end
  redis.call('RENAME', key, to)
  return 1
end

-- Tells by a client's mark whether its commit happened. If not, it can't any more: it watches the mark.
-- Returns 1 if it happened, 0 if not, -1 if the mark is gone, so that nobody can tell.
function functions.decide(mark, number, seconds)
  local found = redis.call('GET', mark)
  if found == number then return 1 end
  redis.call('SET', mark, 'not ' .. number, 'EX', seconds)
  return found and 0 or -1
end
