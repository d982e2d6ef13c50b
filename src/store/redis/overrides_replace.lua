-- Replaces the document with the overrides, unless another writer was faster.
--
-- KEYS[1]  the document: a hash with the fields version and content
-- ARGV     expected version, new version, new content, TTL in seconds. Empty stands for none.
-- Reply    1 if the document was replaced, else 0.
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'version', ARGV[2], 'content', ARGV[3])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return 1
