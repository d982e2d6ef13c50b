-- Removes a lockout together with the counters that struck it. They lie in its slot: charge.lua reads and
-- writes both in one step.
--
-- KEYS[1]  the lockout: `ends level strikes since`, then ` length:key` for each counter that struck.
-- Reply    1 if there was a lockout, else 0.
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
local _, at = string.find(held, '^%d+ %d+ %d+ %d+')
while at do
  local _, to, len = string.find(held, '^ (%d+):', at + 1)
  if not to then break end
  redis.call('DEL', string.sub(held, to + 1, to + len))
  at = to + len
end
redis.call('DEL', KEYS[1])
return 1
