-- Reads the document with the overrides, and the time.
--
-- KEYS[1]  its version
-- KEYS[2]  its content
-- Reply    seconds, microseconds, version, content; nil for what does not exist.
local time = redis.call('TIME')
return {time[1], time[2], redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}
