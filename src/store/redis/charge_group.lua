-- Charges that are decided together: `engine::algorithm::group` says the same.
--
-- KEYS  the counters, each once.
-- ARGV  six numbers for each charge: its counter (from 0); 0 count always, 1 count only if the request
--       passes, 2 give back; hits; what may be counted in a window; its vote (0 enforced, 1 quota,
--       2 shadow, 3 shadow quota); seconds that its counter is to live, if it is new.
-- Reply two numbers for each charge: its counter afterwards; 0 charged, 1 denied, 2 withheld.
local before, tried, lives = {}, {}, {}
for i, key in ipairs(KEYS) do
  before[i] = math.max(0, tonumber(redis.call('GET', key) or 0))
  tried[i] = before[i]
end

local asks = {}
for at = 1, #ARGV, 6 do
  local counter = tonumber(ARGV[at]) + 1
  lives[counter] = ARGV[at + 5]
  asks[#asks + 1] = {
    counter = counter, kind = ARGV[at + 1], hits = tonumber(ARGV[at + 2]),
    quota = tonumber(ARGV[at + 3]), vote = ARGV[at + 4]
  }
end

-- Carries out one charge on `used`, as if the request passed. Says whether it did not fit.
local function try(ask, used)
  local now = used[ask.counter]
  if ask.kind == '2' then
    used[ask.counter] = math.max(0, now - ask.hits)
  elseif ask.kind == '1' and now + math.max(1, ask.hits) > ask.quota then
    return true
  else
    used[ask.counter] = now + ask.hits
  end
  return false
end

local denied, quotas, quotas_over = false, 0, 0
local reply = {}
for i, ask in ipairs(asks) do
  local unfit = try(ask, tried)
  local over = unfit or (ask.kind == '0' and tried[ask.counter] > ask.quota)
  reply[2 * i - 1], reply[2 * i] = tried[ask.counter], unfit and 1 or 0
  if ask.vote == '0' then
    denied = denied or over
  elseif ask.vote == '1' then
    quotas, quotas_over = quotas + 1, quotas_over + (over and 1 or 0)
  elseif ask.vote == '3' then
    quotas = quotas + 1
  end
end

local after = tried
if denied or (quotas > 0 and quotas_over == quotas) then
  after = {}
  for i in ipairs(KEYS) do after[i] = before[i] end
  for i, ask in ipairs(asks) do
    if ask.kind == '1' then
      reply[2 * i] = reply[2 * i] == 1 and 1 or 2
    else
      try(ask, after)
    end
    reply[2 * i - 1] = after[ask.counter]
  end
end

for i, key in ipairs(KEYS) do
  local more = after[i] - before[i]
  if more ~= 0 then
    if redis.call('INCRBY', key, more) == more then redis.call('EXPIRE', key, lives[i]) end
  end
end
return reply
