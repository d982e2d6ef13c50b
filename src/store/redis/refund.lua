-- Gives hits back to a counter, which does not fall below zero. Its time to live stays as it is, and a
-- counter that does not exist is not made.
--
-- KEYS[1]  the counter
-- ARGV[1]  hits to give back, 1 or more
-- Returns the hits that the counter holds afterwards.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local used = redis.call('DECRBY', KEYS[1], ARGV[1])
if used < 0 then
  redis.call('SET', KEYS[1], '0', 'KEEPTTL')
  return 0
end
return used
