-- Carries out requests in their order, each of them as `engine::algorithm` does.
--
-- KEYS     the counters, each once.
-- ARGV[1]  the requests, one after the other, big-endian: a byte that says how many charges it has, and
--          for each charge
--            2 bytes  its counter, from 1
--            1        its algorithm: 0 fixed window, 1 sliding window, 2 sliding log, 3 token bucket
--            1        its kind: 0 counts always, 1 counts only if the request passes, 2 gives back,
--                     3 counts only if the request passes, all of it if one hit fits
--            1        its vote: 0 enforced, 1 quota, 2 shadow, 3 shadow quota
--            4        its hits
--            4        hits that fit into the counter
--            4        seconds that the counter is to live from now on, if it is new or is no fixed window
--          and, but for fixed windows,
--            4        hits in a window
--            8 and 8  the window and now, in ticks, as floating-point numbers
-- Reply    four numbers for each charge: 0 charged, 1 denied, 2 withheld; what its counter holds
--          afterwards (hits, or of a token bucket its level); and two more: of a sliding window the hits
--          of the window before and the window's number, of a sliding log when the last of the hits
--          leaves that must, and when the newest came (-1 for none), of a token bucket its time.
local SLIDING_WINDOW, SLIDING_LOG, TOKEN_BUCKET = 1, 2, 3
local ALWAYS, REFUND, OVERDRAFT = 0, 2, 3
local ENFORCED, QUOTA, SHADOW_QUOTA = 0, 1, 3
local CHARGED, DENIED, WITHHELD = 0, 1, 2

local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min

local function number(text)
  return tonumber(text) or error('a counter is not an integer')
end

-- A counter: `level` parts of a hit, `parts` to each, beside `base` that stays. A refund is short of what
-- was `lost` since. The lowest level that there was is `low`.
local function load_fixed_window(key)
  local held = call('GET', key)
  local level = held and max(0, number(held)) or 0
  return { level = level, before = held and level, base = 0, parts = 1, max = math.huge, lost = 0 }
end

local load = {}

load[SLIDING_WINDOW] = function(key, c)
  local held = call('GET', key)
  local window, current, previous = 0, 0, 0
  if held then
    window, current, previous = string.match(held, '^(%d+) (%d+) (%d+)$')
    window, current, previous = number(window), number(current), number(previous)
  end
  local own = floor(c.now / c.window)
  c.number = max(own, window)
  if c.number - window == 1 then
    current, previous = 0, current
  elseif c.number > window then
    current, previous = 0, 0
  end
  local left = max(0, min(c.window, (c.number + 1) * c.window - c.now))
  c.previous, c.base, c.level, c.parts = previous, previous * left, current * c.window, c.window
  c.lost = own < c.number and math.huge or 0
end

load[SLIDING_LOG] = function(key, c)
  local newest = call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  c.now = max(c.now, newest and number(newest) or 0)
  call('ZREMRANGEBYSCORE', key, '-inf', c.now - c.window)
  c.base, c.level, c.parts, c.lost = 0, call('ZCARD', key), 1, 0
end

load[TOKEN_BUCKET] = function(key, c)
  local held = call('GET', key)
  local at, level = 0, 0
  if held then
    at, level = string.match(held, '^(%d+) (%d+)$')
    at, level = number(at), number(level)
  end
  c.at = max(c.now, at)
  c.base, c.level, c.parts = 0, max(0, level - (c.at - at) * c.rate), c.window
  c.lost = (c.at - c.now) * c.rate
end

local function save(key, c)
  if c.algorithm == SLIDING_WINDOW then
    local value = string.format('%.0f %.0f %.0f', c.number, c.level / c.parts, c.previous)
    call('SET', key, value, 'EX', c.lives)
  elseif c.algorithm == TOKEN_BUCKET then
    call('SET', key, string.format('%.0f %.0f', c.at, c.level), 'EX', c.lives)
  elseif c.algorithm == SLIDING_LOG then
    if c.low < c.before then call('ZPOPMAX', key, c.before - c.low) end
    -- Numbers, so that hits of one time are told apart, and the newest of them comes last.
    for hit = c.low + 1, c.level do
      call('ZADD', key, c.now, string.format('%.0f-%06d', c.now, hit))
    end
    call('EXPIRE', key, c.lives)
  elseif not c.before then
    call('SET', key, c.level, 'EX', c.lives)
  else
    call('INCRBY', key, c.level - c.before)
  end
end

local function used(c) return ceil((c.base + c.level) / c.parts) end

-- Of so many hits, how many must fit for them to pass.
local function needs(kind, hits) return kind == OVERDRAFT and 1 or max(1, hits) end

-- Carries out one charge as if its request passed.
local function try(c, kind, hits, capacity)
  if kind == REFUND then
    c.level = max(0, c.level - max(0, hits * c.parts - c.lost))
    c.low = min(c.low, c.level)
  elseif kind ~= ALWAYS and used(c) + needs(kind, hits) > capacity then
    return DENIED
  else
    c.level = max(c.level, min(c.level + hits * c.parts, c.max))
  end
  return CHARGED
end

local reply, logs = {}, {}
local function answer(ask, outcome, level, low)
  local c = ask.counter
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = outcome, level, 0, 0
  if c.algorithm == SLIDING_WINDOW then
    reply[n + 2], reply[n + 3], reply[n + 4] = level / c.parts, c.previous, c.number
  elseif c.algorithm == TOKEN_BUCKET then
    reply[n + 3] = c.at
  elseif c.algorithm == SLIDING_LOG then
    logs[#logs + 1] = { at = n + 3, counter = c, leaving = level + needs(ask.kind, ask.hits) - ask.capacity, len = level, low = low }
  end
end

-- Carries out the charges of one request.
local function charge(asks)
  local held, outcomes, levels, lows = {}, {}, {}, {}
  local denied, quotas, quotas_over = false, 0, 0
  for i, ask in ipairs(asks) do
    local c = ask.counter
    held[c] = held[c] or { level = c.level, low = c.low }
    outcomes[i] = try(c, ask.kind, ask.hits, ask.capacity)
    levels[i], lows[i] = c.level, c.low
    local over = outcomes[i] == DENIED or (ask.kind == ALWAYS and used(c) > ask.capacity)
    if ask.vote == ENFORCED then
      denied = denied or over
    elseif ask.vote == QUOTA then
      quotas, quotas_over = quotas + 1, quotas_over + (over and 1 or 0)
    elseif ask.vote == SHADOW_QUOTA then
      quotas = quotas + 1
    end
  end
  if denied or (quotas > 0 and quotas_over == quotas) then
    for c, was in pairs(held) do c.level, c.low = was.level, was.low end
    for i, ask in ipairs(asks) do
      if ask.kind == ALWAYS or ask.kind == REFUND then
        outcomes[i] = try(ask.counter, ask.kind, ask.hits, ask.capacity)
      elseif outcomes[i] == CHARGED then
        outcomes[i] = WITHHELD
      end
      levels[i], lows[i] = ask.counter.level, ask.counter.low
    end
  end
  for i, ask in ipairs(asks) do answer(ask, outcomes[i], levels[i], lows[i]) end
end

local counters = {}
local requests, at = ARGV[1], 1
while at <= #requests do
  local len
  len, at = struct.unpack('B', requests, at)
  local asks = {}
  for i = 1, len do
    local index, algorithm, kind, vote, hits, capacity, lives, rate, window, now
    index, algorithm, kind, vote, hits, capacity, lives, at = struct.unpack('>I2BBBI4I4I4', requests, at)
    if algorithm ~= 0 then
      rate, window, now, at = struct.unpack('>I4dd', requests, at)
    end
    local c = counters[index]
    if not c then
      if algorithm == 0 then
        c = load_fixed_window(KEYS[index])
      else
        c = { rate = rate, window = window, now = now }
        load[algorithm](KEYS[index], c)
        c.before, c.max = c.level, (2 * capacity + 1) * c.parts
      end
      c.algorithm, c.lives, c.key, c.low = algorithm, lives, KEYS[index], c.level
      counters[index] = c
    end
    asks[i] = { counter = c, kind = kind, vote = vote, hits = hits, capacity = capacity }
  end
  if len > 1 then
    charge(asks)
  else
    local ask = asks[1]
    local outcome = try(ask.counter, ask.kind, ask.hits, ask.capacity)
    answer(ask, outcome, ask.counter.level, ask.counter.low)
  end
end

for _, log in ipairs(logs) do
  -- When the hit came that had so many before it: those past the lowest level there was came now.
  local function time_of(before)
    if before >= log.low then return log.counter.now end
    return number(call('ZRANGE', log.counter.key, before, before, 'WITHSCORES')[2])
  end
  local newest = log.len > 0 and time_of(log.len - 1) or -1
  reply[log.at + 1] = newest
  if log.leaving <= 0 then
    reply[log.at] = -1
  else
    reply[log.at] = log.leaving <= log.len and time_of(log.leaving - 1) or newest
  end
end

for index, key in ipairs(KEYS) do
  local c = counters[index]
  if c.level ~= (c.before or 0) or c.low ~= c.level then save(key, c) end
end

return reply
