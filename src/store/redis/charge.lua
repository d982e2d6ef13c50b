-- Carries out requests in their order, each of them as `engine::algorithm::group` does.
--
-- KEYS     the counters, each once.
-- ARGV[1]  the requests, one after the other. Big-endian: a byte that says how many charges it has; for
--          each charge two bytes for its counter (from 1), one for its kind (0 counts always, 1 counts
--          only if the request passes, 2 gives back), one for its vote (0 enforced, 1 quota, 2 shadow,
--          3 shadow quota), and four each for its hits, its quota, and the seconds that its counter is
--          to live if it is new.
-- Reply    two numbers for each charge: its counter afterwards; 0 charged, 1 denied, 2 withheld.
local ALWAYS, IF_ALLOWED, REFUND = 0, 1, 2
local ENFORCED, QUOTA, SHADOW_QUOTA = 0, 1, 3
local CHARGED, DENIED, WITHHELD = 0, 1, 2

local before, used, lives = {}, {}, {}
for counter, key in ipairs(KEYS) do
  local held = redis.call('GET', key)
  if held and not tonumber(held) then return redis.error_reply('ERR a counter is not an integer') end
  before[counter] = held and math.max(0, tonumber(held))
  used[counter] = before[counter] or 0
end

-- Carries out one charge as if its request passed.
local function try(counter, kind, hits, quota)
  local now = used[counter]
  if kind == REFUND then
    used[counter] = math.max(0, now - hits)
  elseif kind == IF_ALLOWED and now + math.max(1, hits) > quota then
    return DENIED
  else
    used[counter] = now + hits
  end
  return CHARGED
end

local reply = {}
local function answer(counter, outcome)
  reply[#reply + 1] = used[counter]
  reply[#reply + 1] = outcome
end

-- Carries out the charges of one request.
local function charge(asks)
  local held, outcomes = {}, {}
  local denied, quotas, quotas_over = false, 0, 0
  for i, ask in ipairs(asks) do
    held[ask.counter] = held[ask.counter] or used[ask.counter]
    outcomes[i] = try(ask.counter, ask.kind, ask.hits, ask.quota)
    ask.after = used[ask.counter]
    local over = outcomes[i] == DENIED or (ask.kind == ALWAYS and ask.after > ask.quota)
    if ask.vote == ENFORCED then
      denied = denied or over
    elseif ask.vote == QUOTA then
      quotas, quotas_over = quotas + 1, quotas_over + (over and 1 or 0)
    elseif ask.vote == SHADOW_QUOTA then
      quotas = quotas + 1
    end
  end
  if not denied and not (quotas > 0 and quotas_over == quotas) then
    for i, ask in ipairs(asks) do
      reply[#reply + 1] = ask.after
      reply[#reply + 1] = outcomes[i]
    end
    return
  end
  for counter, hits in pairs(held) do used[counter] = hits end
  for i, ask in ipairs(asks) do
    if ask.kind ~= IF_ALLOWED then
      answer(ask.counter, try(ask.counter, ask.kind, ask.hits, ask.quota))
    else
      answer(ask.counter, outcomes[i] == DENIED and DENIED or WITHHELD)
    end
  end
end

local requests, at = ARGV[1], 1
while at <= #requests do
  local len, counter, kind, vote, hits, quota, secs
  len, at = struct.unpack('B', requests, at)
  local asks = {}
  for i = 1, len do
    counter, kind, vote, hits, quota, secs, at = struct.unpack('>I2BBI4I4I4', requests, at)
    lives[counter] = secs
    if len > 1 then
      asks[i] = { counter = counter, kind = kind, vote = vote, hits = hits, quota = quota }
    end
  end
  if len > 1 then
    charge(asks)
  else
    answer(counter, try(counter, kind, hits, quota))
  end
end

for counter, key in ipairs(KEYS) do
  if before[counter] == false then
    if used[counter] > 0 then redis.call('SET', key, used[counter], 'EX', lives[counter]) end
  elseif used[counter] ~= before[counter] then
    redis.call('INCRBY', key, used[counter] - before[counter])
  end
end
return reply
