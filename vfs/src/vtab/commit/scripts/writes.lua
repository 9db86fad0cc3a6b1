-- The last part of a commit.
local why
for n = last_question + 1, #ARGV do
  local items, at = cmsgpack.unpack(ARGV[n]), 1
  while items[at] do
    local last = with_keys(items, at)
    local work = functions[items[at + 1]]
    if work then
      local done, error = pcall(work, unpack(items, at + 2, last))
      if not done then why = why or tostring(type(error) == 'table' and error.err or error) end
    else
      local reply = call(unpack(items, at + 1, last))
      if type(reply) == 'table' and reply.err then why = why or reply.err end
    end
    at = last + 1
  end
end
return why and {'refused', why} or {}
