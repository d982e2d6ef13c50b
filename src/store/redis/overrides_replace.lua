-- Replaces the document with the overrides, unless another writer was faster.
--
-- KEYS[1]  the document: a hash with the fields version and content
-- ARGV     expected version, empty for no document; new version, new content, TTL in seconds
-- Reply    1 if the document was replaced, else 0.
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'content', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
