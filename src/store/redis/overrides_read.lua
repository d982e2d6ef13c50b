-- Reads the document with the overrides, and the time.
--
-- KEYS[1]  the document: a hash with the fields version and content
-- Reply    seconds, microseconds, version, content; nil for what does not exist.
local time = redis.call('TIME')
local document = redis.call('HMGET', KEYS[1], 'version', 'content')
return {time[1], time[2], document[1], document[2]}
