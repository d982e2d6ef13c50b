-- Carries out requests in order, each as `engine::algorithm` does.
--
-- KEYS     the counters and the lockouts, each once.
-- ARGV[1]  the requests, big-endian: 2 bytes for the number of charges, plus 32,768 if the request is already
--          denied, and for each charge
--            2 bytes  index of its counter in KEYS
--            1        algorithm: 0 fixed window, 1 sliding window, 2 sliding log, 3 token bucket, 4 places; plus 8 for a
--                     counter with holds, which reserve.lua describes: it precedes this script where there are any
--            1        kind: 0 always, 1 if_allowed, 2 refund, 3 overdraft, 4 ask for a lease, 5 return one, 6 release a
--                     ticket, 7 renew it, 8 if_allowed for a ticket that its caller names
--            1        effect on the request: 0 enforced, 1 quota, 2 shadow, 3 shadow quota
--            4        hits
--            4        capacity of the counter, in hits
--            4        TTL in seconds; for a fixed window, set only on creation
--            2        index of its lockout in KEYS; 0 for none
--          and, except for fixed windows,
--            4        limit in hits per window
--            8        window in ticks, as a double
--            4        length of a tick in microseconds
--          and, for places,
--            32       ticket; zeros for none
--            4        seconds after which its places end
--          and, for a lease that is asked for,
--            4        used hits above which it takes nothing
--            2        it takes this part of the room at most
--          and, for one that is returned,
--            8        time of the lease in microseconds, as a double
--          and, with a lockout,
--            4, 4, 4  `within` and `forget` in seconds; `after` in strikes
--            1        1 if a request during a block restarts it
--            1 + 4…   number of blocks, and the seconds of each; 0 for a permanent block
-- ARGV[2]  now, in microseconds; empty for the server's own time.
-- Reply    four numbers for each charge:
--            outcome: 0 charged, 1 denied, 2 withheld, 3 blocked, 4 a counter of the request is unreadable; for a
--            ticket that is released or renewed, 1 if it holds nothing; 16 + hits for a lease
--            content of the counter afterwards: hits, or the level of a token bucket
--            sliding window: hits of the previous window; sliding log: time of the last hit that must leave for
--            the charge to pass, -1 for none; token bucket: time of its level; places: time at which the first
--            one ends, or that of the ticket that is renewed or named, -1 for none
--            sliding window: number of the window; sliding log: time of the newest hit, -1 for none; places: number
--            of tickets that had ended by themselves and were dropped, -1 if the named ticket held its places already
--          then, for each charge with a lockout, the end of its block in microseconds; the numbers of reserve.lua for
--          each charge to a counter with holds; and last, now.
local FIXED_WINDOW, SLIDING_WINDOW, SLIDING_LOG, TOKEN_BUCKET, PLACES = 0, 1, 2, 3, 4
local ALWAYS, IF_ALLOWED, REFUND, OVERDRAFT, LEASE, RETURN, RELEASE, RENEW, NAMED = 0, 1, 2, 3, 4, 5, 6, 7, 8
local ENFORCED, QUOTA, SHADOW_QUOTA = 0, 1, 3
local CHARGED, DENIED, WITHHELD, BLOCKED, UNREADABLE, LEASED = 0, 1, 2, 3, 4, 16
local NEVER = 2 ^ 53
-- Counters that one lockout names at most: `engine::lockout` has the same.
local MAX_STRUCK = 8
-- `engine::algorithm::MAX_SKEW_US`: a stored time further ahead of now was written by a clock that has since
-- been set back, and counts as now.
local MAX_SKEW_US = 1000000
-- `engine::algorithm::places` has the same.
local MAX_DROPPED = 32

local call, pcall_redis, floor, ceil, max, min = redis.call, redis.pcall, math.floor, math.ceil, math.max, math.min

local now_us = tonumber(ARGV[2])
if not now_us then
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
end

local function number(text)
  return tonumber(text) or error('a counter is not an integer')
end

-- A counter: `level` parts of a hit, `parts` to each, beside `base` that stays. A refund is short of what
-- was `lost` since. The lowest level that there was is `low`.
local load = {}

load[FIXED_WINDOW] = function(key, c)
  local held = call('GET', key)
  c.level = held and max(0, number(held)) or 0
  -- Counts go on up to where numbers are exact.
  c.before, c.base, c.parts, c.max, c.lost = held and c.level, 0, 1, NEVER, 0
end

load[SLIDING_WINDOW] = function(key, c)
  local held = call('GET', key)
  local window, current, previous = 0, 0, 0
  if held then
    window, current, previous = string.match(held, '^(%d+) (%d+) (%d+)$')
    window, current, previous = number(window), number(current), number(previous)
  end
  local own = floor(c.now / c.window)
  if window * c.window > c.now + c.skew then window, c.corrected = own, true end
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

-- A sliding log is a sorted set of runs, the hits of one moment, by their time: `time count sum`, where `sum`
-- counts all hits up to the end of the run. So a log of any number of hits at one moment is one member, and what
-- lies between two runs is a subtraction.
local function run_at(key, rank)
  local run = call('ZRANGE', key, rank, rank)[1]
  if not run then return nil end
  local time, count, sum = string.match(run, '^(%d+) (%d+) (%d+)$')
  return number(time), number(count), number(sum)
end

local function add_run(key, time, count, sum)
  call('ZADD', key, time, string.format('%.0f %.0f %.0f', time, count, sum))
end

-- The rank of the run that holds the hit with so many live hits before it.
local function rank_of(c, before)
  local low, high = c.stale, call('ZCARD', c.key) - 1
  while low < high do
    local middle = floor((low + high) / 2)
    local _, _, sum = run_at(c.key, middle)
    if sum - c.gone > before then high = middle else low = middle + 1 end
  end
  return low
end

-- Makes runs later than now one run of now.
local function correct_log(key, c, sum)
  local now = string.format('%.0f', c.now)
  local ahead = call('ZCOUNT', key, now, '+inf')
  local _, count, first_sum = run_at(key, -ahead)
  local before = first_sum - count
  call('ZREMRANGEBYSCORE', key, now, '+inf')
  add_run(key, c.now, sum - before, sum)
  call('EXPIRE', key, c.lives)
end

load[SLIDING_LOG] = function(key, c)
  local newest, _, sum = run_at(key, -1)
  if newest and newest > c.now + c.skew then
    correct_log(key, c, sum)
    newest = c.now
  end
  c.now = max(c.now, newest or 0)
  -- Runs that count no more go when something is written.
  c.stale = newest and call('ZCOUNT', key, '-inf', string.format('%.0f', c.now - c.window)) or 0
  c.gone = sum or 0
  if newest then
    local _, count, first_sum = run_at(key, c.stale)
    if count then c.gone = first_sum - count end
  end
  c.base, c.level, c.parts, c.lost = 0, (sum or 0) - c.gone, 1, 0
end

local function save_log(key, c)
  if c.low < c.before then
    -- The newest hits were refunded.
    local rank = c.low > 0 and rank_of(c, c.low - 1) or c.stale - 1
    local time, count, sum
    if c.low > 0 then time, count, sum = run_at(key, rank) end
    local kept = c.low > 0 and c.gone + c.low - (sum - count) or 0
    call('ZREMRANGEBYRANK', key, rank + 1, -1)
    if c.low > 0 and kept < count then
      call('ZREMRANGEBYRANK', key, -1, -1)
      add_run(key, time, kept, c.gone + c.low)
    end
  end
  if c.stale > 0 then call('ZREMRANGEBYRANK', key, 0, c.stale - 1) end
  if c.level > c.low then
    local more = c.level - c.low
    local time, count = run_at(key, -1)
    if time == c.now then
      call('ZREMRANGEBYRANK', key, -1, -1)
      more = more + count
    end
    add_run(key, c.now, more, c.gone + c.level)
  end
  call('EXPIRE', key, c.lives)
end

load[TOKEN_BUCKET] = function(key, c)
  local held = call('GET', key)
  local at, level = 0, 0
  if held then
    local tick
    -- A tick of a microsecond is not written.
    at, level, tick = string.match(held, '^(%d+) (%d+) ?(%d*)$')
    at, level, tick = number(at), number(level), tick == '' and 1 or number(tick)
    if tick ~= c.tick then
      at, level = min(ceil(at * tick / c.tick), NEVER), min(ceil(level * tick / c.tick), NEVER)
      c.corrected = true
    end
    if at > c.now + c.skew then at, c.corrected = c.now, true end
  end
  c.held_at, c.held_level = at, level
  c.at = max(c.now, at)
  level = max(0, level - (c.at - at) * c.rate)
  -- An older version of the rule may have let more be missing.
  c.base, c.level, c.parts = 0, min(level, (2 * c.capacity + 1) * c.window), c.window
  c.lost = (c.at - c.now) * c.rate
end

-- Places are a sorted set of tickets by the time at which they end. A ticket's second place is `ticket#2`.
local function place(ticket, index) return index == 1 and ticket or ticket .. '#' .. index end

local function last_end(key) return tonumber(call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]) end

local function micros_text(time) return string.format('%.0f', time) end

load[PLACES] = function(key, c)
  local last, latest = last_end(key), now_us + c.window
  if last and last > latest + MAX_SKEW_US then
    -- Written before a clock was set back, or by an older version of the rule.
    for _, member in ipairs(call('ZRANGEBYSCORE', key, '(' .. micros_text(latest + MAX_SKEW_US), '+inf')) do
      call('ZADD', key, micros_text(latest), member)
    end
  end
  c.level = last and call('ZCOUNT', key, '(' .. micros_text(now_us), '+inf') or 0
  -- Hits without a ticket give no place back.
  c.base, c.parts, c.lost, c.taken = 0, 1, math.huge, {}
end

-- The key lives as long as its last place.
local function keep_places(key)
  local last = last_end(key)
  if last then call('PEXPIRE', key, micros_text(ceil(max(0, last - now_us) / 1000) + 1000)) end
end

-- Drops the places of a ticket. Returns their number.
local function drop_places(c, ticket)
  local index = 1
  while call('ZREM', c.key, place(ticket, index)) == 1 do index = index + 1 end
  c.taken[ticket] = nil
  return index - 1
end

-- Releases or renews a ticket, before the other charges of its request are decided. What it has acquired before, it does
-- not acquire again.
local function use_ticket(ask)
  local key, ticket, index = ask.counter.key, ask.ticket, 1
  local ends = tonumber(call('ZSCORE', key, ticket) or 0)
  ask.used = now_us < ends and CHARGED or DENIED
  if ask.kind == NAMED then
    ask.kind = IF_ALLOWED
    ask.is_known = ask.used == CHARGED
    if not ask.is_known then ask.used = nil end
  elseif ask.kind == RELEASE then
    local removed = drop_places(ask.counter, ticket)
    if ask.used == CHARGED then
      ask.counter.level = ask.counter.level - removed
    else
      ask.expired = min(1, removed)
    end
  elseif ask.used == CHARGED then
    ends = micros_text(max(ends, now_us + ask.ttl * 1000000))
    while call('ZSCORE', key, place(ticket, index)) do
      call('ZADD', key, ends, place(ticket, index))
      index = index + 1
    end
    keep_places(key)
  end
end

local function take_places(ask)
  local c, ends = ask.counter, micros_text(now_us + ask.ttl * 1000000)
  local taken = c.taken[ask.ticket] or 0
  local ended = call('ZRANGEBYSCORE', c.key, '-inf', micros_text(now_us), 'LIMIT', 0, MAX_DROPPED)
  -- A named ticket may have had places that have ended.
  if ask.is_about_ticket and taken == 0 then ended[#ended + 1] = ask.ticket end
  ask.expired = 0
  for _, member in ipairs(ended) do
    -- With a ticket all its places go, also those beyond the bound.
    if not string.find(member, '#', 1, true) and drop_places(c, member) > 0 then
      ask.expired = ask.expired + 1
    end
  end
  for index = taken + 1, taken + ask.hits do call('ZADD', c.key, ends, place(ask.ticket, index)) end
  c.taken[ask.ticket] = taken + ask.hits
  keep_places(c.key)
end

local function save(key, c)
  if c.algorithm == SLIDING_WINDOW then
    local value = string.format('%.0f %.0f %.0f', c.number, c.level / c.parts, c.previous)
    call('SET', key, value, 'EX', c.lives)
  elseif c.algorithm == TOKEN_BUCKET then
    if c.level == c.before and c.low == c.level then c.at, c.level = c.held_at, c.held_level end
    local value = string.format('%.0f %.0f', c.at, c.level)
    if c.tick ~= 1 then value = value .. string.format(' %.0f', c.tick) end
    call('SET', key, value, 'EX', c.lives)
  elseif c.algorithm == SLIDING_LOG then
    save_log(key, c)
  elseif not c.before then
    call('SET', key, string.format('%.0f', c.level), 'EX', c.lives)
  else
    call('INCRBY', key, string.format('%.0f', c.level - c.before))
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

-- Takes hits in advance, or gives them back: `engine::algorithm::group::LeaseStep`.
local function lease(c, ask)
  if ask.kind == LEASE then
    local now = used(c)
    local taken = max(0, min(ask.hits, ask.ceiling - now, floor((ask.capacity - now) / ask.shares)))
    c.level = max(c.level, min(c.level + taken * c.parts, c.max))
    return LEASED + taken
  end
  local lapsed = 0
  if c.tick then
    local charged = floor(ask.charged / c.tick)
    if c.algorithm == TOKEN_BUCKET then
      lapsed = max(0, c.now - charged) * c.rate
    elseif floor(charged / c.window) ~= floor(c.now / c.window) then
      lapsed = math.huge
    end
  end
  c.level = max(0, c.level - max(0, ask.hits * c.parts - c.lost - lapsed))
  c.low = min(c.low, c.level)
  return CHARGED
end

-- A lockout: when its block ends, how many there were, strikes towards the next one, and since when.
local function load_lockout(key, l)
  local held = call('GET', key)
  l.ends, l.level, l.strikes, l.since, l.struck = 0, 0, 0, 0, ''
  if held then
    local ends, level, strikes, since
    ends, level, strikes, since, l.struck = string.match(held, '^(%d+) (%d+) (%d+) (%d+)(.*)$')
    l.ends, l.level, l.strikes, l.since = number(ends), number(level), number(strikes), number(since)
  end
end

local function micros(secs) return secs * 1000000 end

-- No block ends later than the longest one of this schedule would that began now.
local function correct_lockout(l)
  local longest = 0
  for _, secs in ipairs(l.steps) do
    longest = secs == 0 and NEVER or max(longest, min(now_us + micros(secs), NEVER - 1))
  end
  local ends, since, level = min(l.ends, longest), min(l.since, now_us), min(l.level, #l.steps)
  l.changed = l.changed or ends ~= l.ends or since ~= l.since or level ~= l.level
  l.ends, l.since, l.level = ends, since, level
end

local function forget(l)
  if l.ends ~= NEVER and l.ends + micros(l.forget) <= now_us then l.level = 0 end
  if l.since + micros(l.within) <= now_us then l.strikes = 0 end
end

local function ends_of(l, step)
  if l.steps[step] == 0 then return NEVER end
  return min(now_us + micros(l.steps[step]), NEVER - 1)
end

-- Appends the key of a counter that struck to those that lifting the lockout clears with it.
local function remember(l, key)
  local names, at = {}, 1
  while true do
    local _, to, len = string.find(l.struck, '^ (%d+):', at)
    if not to then break end
    local name = string.sub(l.struck, at, to + len)
    if string.sub(name, -len) ~= key then names[#names + 1] = name end
    at = to + len + 1
  end
  names[#names + 1] = string.format(' %d:', #key) .. key
  l.struck = table.concat(names, '', max(1, #names - MAX_STRUCK + 1))
end

local function strike(l)
  if l.strikes == 0 then l.since, l.struck = now_us, '' end
  l.strikes = l.strikes + 1
  if l.strikes >= l.after then
    local step = min(l.level + 1, #l.steps)
    l.ends, l.level, l.strikes = ends_of(l, step), step, 0
  end
  l.changed = true
end

local function extend_block(l)
  if l.extend == 1 and l.level > 0 and l.steps[l.level] then
    l.ends, l.changed = max(l.ends, ends_of(l, l.level)), true
  end
end

-- Numbers, then the keys of the counters that struck: ` length:key` each. `engine::lockout` reads it.
local function save_lockout(key, l)
  local value = string.format('%.0f %.0f %.0f %.0f', l.ends, l.level, l.strikes, l.since) .. l.struck
  if l.level > 0 and l.ends == NEVER then return call('SET', key, value) end
  local strikes = l.strikes > 0 and l.since + micros(l.within) or 0
  local level = l.level > 0 and l.ends + micros(l.forget) or 0
  call('SET', key, value, 'EX', max(1, ceil((max(strikes, level) - now_us) / 1000000) + 1))
end

local reply, logs, places = {}, {}, {}
local function answer(ask, outcome, level, low)
  local c = ask.counter
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = outcome, level, 0, 0
  if c.algorithm == SLIDING_WINDOW then
    reply[n + 2], reply[n + 3], reply[n + 4] = level / c.parts, c.previous, c.number
  elseif c.algorithm == TOKEN_BUCKET then
    reply[n + 3] = c.at
  elseif c.algorithm == PLACES then
    places[#places + 1] = { at = n + 3, key = c.key, ticket = ask.is_about_ticket and ask.ticket }
    reply[n + 4] = ask.is_known and -1 or ask.expired or 0
  elseif c.algorithm == SLIDING_LOG then
    logs[#logs + 1] = { at = n + 3, counter = c, leaving = level + needs(ask.kind, ask.hits) - ask.capacity, len = level, low = low }
  end
end

-- Carries out one charge, unless its client is locked out.
local function charge_one(ask)
  local l, c = ask.lockout, ask.counter
  if ask.used then
    ask.outcome, ask.level, ask.low, ask.over = ask.used, c.level, c.low, ask.denies or false
    return
  end
  if l and l.blocked and ask.kind ~= REFUND and ask.kind ~= RETURN then
    ask.outcome = BLOCKED
  elseif ask.kind == LEASE or ask.kind == RETURN then
    ask.outcome = lease(c, ask)
  else
    ask.outcome = try(c, ask.kind, ask.hits, ask.capacity)
  end
  ask.level, ask.low = c.level, c.low
  ask.over = ask.outcome == BLOCKED or ask.outcome == DENIED or (ask.kind == ALWAYS and used(c) > ask.capacity)
end

-- Tells the lockouts what became of a request: one strike, however many of its charges were denied.
local function tell_lockouts(asks)
  local told = {}
  for _, ask in ipairs(asks) do
    local l = ask.lockout
    if l and ask.kind ~= REFUND and ask.kind ~= RETURN and ask.hits > 0 and not told[l] and (l.blocked or ask.over) then
      told[l] = true
      if l.blocked then extend_block(l) else strike(l) end
    end
  end
  for _, ask in ipairs(asks) do
    local l = ask.lockout
    if told[l] and not l.blocked and ask.over and ask.kind ~= REFUND and ask.hits > 0 then
      remember(l, ask.counter.key)
      if now_us < l.ends then ask.outcome = BLOCKED end
    end
  end
end

-- Carries out the charges of one request, which may be denied already.
local function charge(asks, denied)
  local held = {}
  local quotas, quotas_over = 0, 0
  for _, ask in ipairs(asks) do
    local c = ask.counter
    held[c] = held[c] or { level = c.level, low = c.low }
    charge_one(ask)
    if ask.enforcement == ENFORCED then
      denied = denied or ask.over
    elseif ask.enforcement == QUOTA then
      quotas, quotas_over = quotas + 1, quotas_over + (ask.over and 1 or 0)
    elseif ask.enforcement == SHADOW_QUOTA then
      quotas = quotas + 1
    end
  end
  if denied or (quotas > 0 and quotas_over == quotas) then
    for c, was in pairs(held) do c.level, c.low = was.level, was.low end
    for _, ask in ipairs(asks) do
      local counts = ask.kind == ALWAYS or ask.kind == REFUND or ask.kind == LEASE or ask.kind == RETURN
      if counts or ask.used then
        charge_one(ask)
      else
        if ask.outcome == CHARGED then ask.outcome = WITHHELD end
        ask.level, ask.low = ask.counter.level, ask.counter.low
      end
    end
  end
end

local counters, lockouts, ends, holds = {}, {}, {}, {}
local requests, at = ARGV[1], 1

local function read_lockout(index)
  local l = lockouts[index]
  if not l then
    l = {}
    l.unreadable = not pcall(load_lockout, KEYS[index], l)
    lockouts[index] = l
  end
  local steps
  l.within, l.forget, l.after, l.extend, steps, at = struct.unpack('>I4I4I4BB', requests, at)
  l.steps = {}
  for step = 1, steps do l.steps[step], at = struct.unpack('>I4', requests, at) end
  if not l.unreadable then
    correct_lockout(l)
    forget(l)
    l.blocked = now_us < l.ends
  end
  return l
end

while at <= #requests do
  local len
  len, at = struct.unpack('>I2', requests, at)
  local was_denied = len >= 32768
  len = len % 32768
  local asks, locks, unreadable, tickets, budgets = {}, false, false, false, false
  for i = 1, len do
    local index, algorithm, kind, enforcement, hits, capacity, lives, lockout, rate, window, tick
    index, algorithm, kind, enforcement, hits, capacity, lives, lockout, at =
      struct.unpack('>I2BBBI4I4I4I2', requests, at)
    local has_holds = algorithm >= 8
    algorithm = algorithm % 8
    if algorithm ~= 0 then
      rate, window, tick, at = struct.unpack('>I4dI4', requests, at)
    end
    local c = counters[index]
    if not c then
      c = { algorithm = algorithm, lives = lives, key = KEYS[index], rate = rate, window = window, tick = tick }
      c.now, c.skew, c.capacity = tick and floor(now_us / tick), tick and floor(MAX_SKEW_US / tick), capacity
      c.unreadable = not pcall(load[algorithm], c.key, c)
      if algorithm ~= FIXED_WINDOW and not c.unreadable then
        c.before, c.max = c.level, (2 * capacity + 1) * c.parts
      end
      c.low = c.level
      counters[index] = c
    end
    asks[i] = { counter = c, kind = kind, enforcement = enforcement, hits = hits, capacity = capacity }
    if has_holds then
      at, budgets = reserves.read(asks[i], requests, at, now_us), true
    end
    unreadable = unreadable or c.unreadable
    if algorithm == PLACES then
      asks[i].ticket, tickets = string.sub(requests, at, at + 31), true
      asks[i].ttl, at = struct.unpack('>I4', requests, at + 32)
    end
    if kind == LEASE then
      asks[i].ceiling, asks[i].shares, at = struct.unpack('>I4I2', requests, at)
    elseif kind == RETURN then
      asks[i].charged, at = struct.unpack('>d', requests, at)
    end
    if lockout ~= 0 then
      local l = read_lockout(lockout)
      asks[i].lockout, locks, unreadable = l, true, unreadable or l.unreadable
    end
  end
  if not unreadable then
    for _, ask in ipairs(tickets and asks or {}) do
      ask.is_about_ticket = ask.kind == RENEW or ask.kind == NAMED
      if ask.kind == RELEASE or ask.is_about_ticket then use_ticket(ask) end
    end
    for _, ask in ipairs(budgets and asks or {}) do
      if ask.reserve then reserves.prepare(ask, now_us) end
    end
    if len > 1 or was_denied then charge(asks, was_denied) else charge_one(asks[1]) end
    if locks then tell_lockouts(asks) end
    for _, ask in ipairs(tickets and asks or {}) do
      local takes = ask.ticket and ask.kind == IF_ALLOWED and ask.hits > 0 and not ask.used
      if takes and ask.outcome == CHARGED then take_places(ask) end
    end
    for _, ask in ipairs(budgets and asks or {}) do
      if ask.reserve then reserves.open(ask, now_us) end
    end
    for _, ask in ipairs(budgets and asks or {}) do
      if ask.reserve then ask.level = ask.counter.level end
    end
  end
  for _, ask in ipairs(asks) do
    if unreadable then
      for _, number in ipairs({ UNREADABLE, 0, 0, 0 }) do reply[#reply + 1] = number end
    else
      answer(ask, ask.outcome, ask.level, ask.low)
    end
    if ask.lockout then ends[#ends + 1] = unreadable and 0 or ask.lockout.ends end
    if ask.reserve then
      if unreadable then
        for _ = 1, 10 do holds[#holds + 1] = 0 end
      else
        reserves.answer(ask, holds, now_us)
      end
    end
  end
end

for _, log in ipairs(logs) do
  -- When the hit came that had so many before it: those past the lowest level there was came now.
  local function time_of(before)
    if before >= log.low then return log.counter.now end
    local time = run_at(log.counter.key, rank_of(log.counter, before))
    return time
  end
  local newest = log.len > 0 and time_of(log.len - 1) or -1
  reply[log.at + 1] = newest
  if log.leaving <= 0 then
    reply[log.at] = -1
  else
    reply[log.at] = log.leaving <= log.len and time_of(log.leaving - 1) or newest
  end
end

for _, of in ipairs(places) do
  local ends = of.ticket and tonumber(call('ZSCORE', of.key, of.ticket) or 0) or 0
  if ends <= now_us then
    local first = call('ZRANGEBYSCORE', of.key, '(' .. micros_text(now_us), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    ends = first and tonumber(first) or -1
  end
  reply[of.at] = ends
end

-- A key that exists without a TTL: somebody has run PERSIST on it. Not an error where the user may not run TTL.
local function has_no_ttl(key) return pcall_redis('TTL', key) == -1 end

for index, key in ipairs(KEYS) do
  local c, l = counters[index], lockouts[index]
  if c and not c.unreadable then
    -- Places are written as they are taken.
    local changed = c.algorithm ~= PLACES and (c.corrected or c.level ~= (c.before or 0) or c.low ~= c.level)
    if changed then save(key, c) end
    -- All writes set the TTL, but for one to a fixed window that exists.
    local keeps_ttl = not changed or (c.algorithm == FIXED_WINDOW and c.before)
    if keeps_ttl and has_no_ttl(key) then call('EXPIRE', key, c.lives) end
  end
  if l and not l.unreadable and (l.changed or (l.ends ~= NEVER and has_no_ttl(key))) then save_lockout(key, l) end
end

for _, at in ipairs(ends) do reply[#reply + 1] = at end
for _, number in ipairs(holds) do reply[#reply + 1] = number end
reply[#reply + 1] = now_us

return reply
