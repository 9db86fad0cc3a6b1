-- The last part of a commit.
local why
for n = questions + 2, #ARGV do
  for _, command in ipairs(items_of(n)) do
    local call = functions[command[1]]
    if call then
      local done, error = pcall(call, unpack(command, 2))
      if not done then why = why or tostring(type(error) == 'table' and error.err or error) end
    else
      local reply = redis.pcall(unpack(command))
      if type(reply) == 'table' and reply.err then why = why or reply.err end
    end
  end
end
return why and {'refused', why} or {}
