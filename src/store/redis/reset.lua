-- Removes the counter of a budget and ends its holds, as `engine::algorithm::budget` does. What settled tickets have
-- counted stays known, so that a settlement that is repeated counts nothing.
--
-- KEYS     the counter, the set of its tickets, and the hash of their amounts: see reserve.lua.
-- ARGV[1]  TTL of marks, in seconds.
-- Reply    1 if anything was used or held, else 0.
local counter, holds, amounts, memory = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[1])
local time = redis.call('TIME')
local ends = time[1] * 1000000 + time[2] + memory * 1000000
for _, ticket in ipairs(redis.call('ZRANGE', holds, 0, -1)) do
  local counted = string.match(redis.call('HGET', amounts, ticket) or '', '^%d+ (%d+)')
  if counted and counted ~= '0' then
    -- A late settlement counts the rest.
    local mark = string.sub(holds, 1, -2) .. 's' .. ticket
    redis.call('SET', mark, string.format('%.0f %s 0', ends, counted), 'EX', memory)
  end
end
return math.min(1, redis.call('DEL', counter) + redis.call('DEL', holds) + redis.call('DEL', amounts))
