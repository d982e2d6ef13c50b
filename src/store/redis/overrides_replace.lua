-- Replaces the document with the overrides, unless another writer was faster.
--
-- KEYS[1]  its version
-- KEYS[2]  its content
-- ARGV     expected version, new version, new content, TTL in seconds. Empty stands for none.
-- Reply    1 if the document was replaced, else 0.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('DEL', KEYS[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[4])
  redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
end
return 1
