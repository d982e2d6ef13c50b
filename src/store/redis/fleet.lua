-- Announces a replica, and returns those whose announcements are younger than the TTL: id, age in seconds, text.
-- KEYS[1]  hash of the announcements by id
-- ARGV     id, text, TTL in seconds
-- By the server's clock: those of replicas may differ.
local ttl = tonumber(ARGV[3])
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ttl)
local all = redis.call('HGETALL', KEYS[1])
local found = {}
for i = 1, #all, 2 do
  local at, text = string.match(all[i + 1], '^(%d+) (.*)$')
  local age = at and now - tonumber(at)
  if age and age < ttl then
    found[#found + 1] = {all[i], math.max(age, 0), text}
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return found
