-- Budgets: the holds of counters, as `engine::algorithm::budget` keeps them. charge.lua follows in the same script, and
-- calls `reserves` for every charge to a counter with holds.
--
-- KEYS     for each of them also: a sorted set of its tickets by the end of their holds, in microseconds; a hash with
--          `amount counted anonymous` of each ticket, and the sum of the amounts as `=`; and the mark of the ticket that
--          the charge names: `until counted 0` if its hold has expired, `until amount returned S` if it is settled.
-- ARGV[1]  for each of them, before its lockout:
--            1 byte   action: 0 look, 1 open, 2 settle, 3 part, 4 rest, 5 oldest, 6 extend, 7 cancel, 8 count, 9 lower
--            1        1 if an expired hold is charged, plus 2 if a hold is anonymous, plus 4 if its ticket is named
--            2, 2, 2  indexes of these keys in KEYS; 0 for no mark
--            32       ticket; zeros for none
--            4, 4     TTL of the hold and of the mark, in seconds
--            4        amount that an extension raises the hold to, with what is counted of it, 0 to leave it; or that is
--                     taken off it
-- Reply    for each of them, before now: the event by its number in `engine::reserve::HoldEvent`; the sum and the number of
--          holds; the time until the first one ends, or of an extension until that of another ticket does, -1 for none;
--          the amount; the part of it that an extension adds; the time until the hold of the charge ends, 0 for none; the
--          part that was returned; hits counted; and the number of holds that were found to have expired. Times are in
--          microseconds.
local reserves = {}
do
  local LOOK, OPEN, SETTLE, PART, REST, OLDEST, EXTEND, CANCEL, COUNT, LOWER = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
  local NONE, OPENED, KNOWN, TOO_MANY, SETTLED, CONTINUED, LATE, REPEATED, EXTENDED, UNKNOWN = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
  -- Kinds and outcomes of charge.lua.
  local ALWAYS, REFUND, CHARGED, DENIED = 0, 2, 0, 1
  local MAX_HOLDS, MAX_TTL, MAX_EXPIRED, MAX_SEARCHED, MAX_SKEW_US = 10000, 3600, 16, 16, 1000000
  local NO_TICKET = string.rep('0', 32)
  local call, ceil, max, min = redis.call, math.ceil, math.max, math.min

  local function text(number) return string.format('%.0f', number) end

  local function micros(secs) return secs * 1000000 end

  -- Changes the sum of the holds, which is part of what is used.
  local function add(c, amount)
    if amount ~= 0 then
      call('HINCRBY', c.amounts, '=', text(amount))
      c.held = c.held + amount
      c.base = c.base + amount * c.parts
    end
  end

  local function find(c, ticket)
    local value = call('HGET', c.amounts, ticket)
    if not value then return nil end
    local amount, counted, anonymous = string.match(value, '^(%d+) (%d+) (%d)$')
    return { amount = tonumber(amount), counted = tonumber(counted), anonymous = anonymous }
  end

  local function put(c, ticket, hold)
    call('HSET', c.amounts, ticket, text(hold.amount) .. ' ' .. text(hold.counted) .. ' ' .. hold.anonymous)
  end

  -- Removes a hold.
  local function take(c, ticket)
    local hold = find(c, ticket)
    call('ZREM', c.holds, ticket)
    if hold then
      call('HDEL', c.amounts, ticket)
      add(c, -hold.amount)
    end
    if call('ZCARD', c.holds) == 0 then call('DEL', c.amounts) end
    return hold
  end

  -- The keys live until the last hold has ended, its expiry was charged, and its ticket is forgotten.
  local function keep(c, r, now)
    local last = call('ZRANGE', c.holds, -1, -1, 'WITHSCORES')[2]
    if not last then return end
    local grace = r.memory + (r.charges and c.lives or 0)
    local millis = text(ceil(max(0, tonumber(last) - now) / 1000) + 1000 + grace * 1000)
    call('PEXPIRE', c.holds, millis)
    call('PEXPIRE', c.amounts, millis)
  end

  local function read_mark(key, now)
    local value = key and call('GET', key)
    if not value then return nil end
    local ends, amount, returned, settled = string.match(value, '^(%d+) (%d+) (%d+) ?(S?)$')
    if tonumber(ends) <= now then return nil end
    return { settled = settled == 'S', amount = tonumber(amount), returned = tonumber(returned) }
  end

  local function write_mark(key, r, now, amount, returned, settled)
    local value = text(now + micros(r.memory)) .. ' ' .. text(amount) .. ' ' .. text(returned) .. settled
    call('SET', key, value, 'EX', r.memory)
  end

  -- The mark of a ticket that the charge does not name lies beside the holds.
  local function mark_of(c, ticket) return string.sub(c.holds, 1, -2) .. 's' .. ticket end

  local function expire(c, r, now)
    local latest = now + micros(MAX_TTL)
    local last = call('ZRANGE', c.holds, -1, -1, 'WITHSCORES')[2]
    if last and tonumber(last) > latest + MAX_SKEW_US then
      -- Written before a clock was set back.
      for _, ticket in ipairs(call('ZRANGEBYSCORE', c.holds, '(' .. text(latest + MAX_SKEW_US), '+inf')) do
        call('ZADD', c.holds, text(latest), ticket)
      end
    end
    if not last then return end
    for _, ticket in ipairs(call('ZRANGEBYSCORE', c.holds, '-inf', text(now), 'LIMIT', 0, MAX_EXPIRED)) do
      local hold = take(c, ticket)
      c.expired = c.expired + 1
      if hold then
        local counted = hold.counted
        if r.charges then
          c.level = max(c.level, min(c.level + hold.amount * c.parts, c.max))
          counted = counted + hold.amount
        end
        if counted > 0 then write_mark(mark_of(c, ticket), r, now, counted, 0, '') end
      end
    end
  end

  -- Reads what the charge does to holds, and loads those of its counter.
  function reserves.read(ask, requests, at, now)
    local r, flags, holds, amounts, mark = {}
    r.action, flags, holds, amounts, mark, at = struct.unpack('>BBI2I2I2', requests, at)
    r.ticket, at = string.sub(requests, at, at + 31), at + 32
    r.ttl, r.memory, r.raised, at = struct.unpack('>I4I4I4', requests, at)
    r.charges, r.anonymous, r.named = flags % 2 == 1, flags % 4 >= 2 and '1' or '0', flags >= 4
    r.mark, r.event, r.amount, r.more, r.ends, r.returned, r.expired = KEYS[mark], NONE, 0, 0, now, 0, 0
    ask.reserve = r
    local c = ask.counter
    if c.unreadable or c.holds then return at end
    c.holds, c.amounts, c.expired = KEYS[holds], KEYS[amounts], 0
    c.unreadable = not pcall(function()
      c.held = tonumber(call('HGET', c.amounts, '=') or 0)
      c.base = c.base + c.held * c.parts
      expire(c, r, now)
    end)
    r.expired = c.expired
    return at
  end

  local function decide(ask, outcome, event)
    ask.used, ask.kind, ask.hits, ask.reserve.event = outcome, REFUND, 0, event
  end

  -- A part of the amount is counted, and the rest stays held.
  local function settle_part(ask, hold, counted, now)
    local c, r = ask.counter, ask.reserve
    local more = max(0, ask.hits - counted)
    if hold then
      local moved = min(more, hold.amount)
      hold.amount, hold.counted = hold.amount - moved, counted + more
      add(c, -moved)
      put(c, r.ticket, hold)
    elseif counted + more > 0 then
      write_mark(r.mark, r, now, counted + more, 0, '')
    end
    r.event, r.amount, ask.hits = hold and CONTINUED or LATE, counted + more, more
  end

  local function settle(ask, now)
    local c, r = ask.counter, ask.reserve
    local mark = read_mark(r.mark, now)
    if mark and mark.settled then
      decide(ask, r.action == REST and DENIED or CHARGED, REPEATED)
      r.amount, r.returned = mark.amount, mark.returned
      return
    end
    local hold = find(c, r.ticket)
    local counted = hold and hold.counted or mark and mark.amount or 0
    if r.action == PART then return settle_part(ask, hold, counted, now) end
    if r.action == REST and not hold and not mark then return decide(ask, DENIED, UNKNOWN) end
    -- Counted hits are not given back: they may lie in another window, or have drained.
    local amount = r.action == REST and counted or max(counted, ask.hits)
    if hold then take(c, r.ticket) end
    r.event, r.amount = hold and SETTLED or LATE, amount
    r.returned = max(0, (hold and hold.amount or 0) + counted - amount)
    write_mark(r.mark, r, now, amount, r.returned, ' S')
    ask.kind, ask.hits = ALWAYS, amount - counted
  end

  local function settle_oldest(ask)
    local c, r = ask.counter, ask.reserve
    r.event, r.amount = LATE, ask.hits
    for _, ticket in ipairs(call('ZRANGE', c.holds, 0, MAX_SEARCHED - 1)) do
      local hold = find(c, ticket)
      if hold and hold.anonymous == '1' then
        take(c, ticket)
        r.event, r.returned = SETTLED, max(0, hold.amount - ask.hits)
        return
      end
    end
  end

  local function end_of(c, ticket) return tonumber(call('ZSCORE', c.holds, ticket) or nil) end

  -- Extends a hold whose amount was found to fit.
  local function extend(c, r, hold, now)
    -- Of two equal charges of one request, the first has raised it.
    r.more = max(0, r.amount - hold.amount)
    if r.more > 0 then
      add(c, r.more)
      hold.amount = r.amount
      put(c, r.ticket, hold)
    end
    r.ends = max(end_of(c, r.ticket), now + micros(r.ttl))
    call('ZADD', c.holds, text(r.ends), r.ticket)
    keep(c, r, now)
    r.event = EXTENDED
  end

  -- An extension that adds nothing is carried out at once. Another is decided with the other charges.
  local function prepare_extension(ask, now)
    local c, r = ask.counter, ask.reserve
    local hold = find(c, r.ticket)
    if not hold or not end_of(c, r.ticket) then
      -- A request raises all its holds or none.
      ask.denies = r.raised > 0
      return decide(ask, DENIED, UNKNOWN)
    end
    r.amount = max(hold.amount, r.raised - hold.counted)
    r.more = r.amount - hold.amount
    if r.more > 0 then
      ask.hits = r.more
    else
      extend(c, r, hold, now)
      decide(ask, CHARGED, EXTENDED)
    end
  end

  local function lower(ask)
    local c, r = ask.counter, ask.reserve
    local hold = find(c, r.ticket)
    if hold then
      local less = min(hold.amount, r.raised)
      hold.amount = hold.amount - less
      put(c, r.ticket, hold)
      add(c, -less)
    end
    decide(ask, CHARGED, NONE)
  end

  local function cancel(ask, now)
    local c, r = ask.counter, ask.reserve
    local hold = take(c, r.ticket)
    if not hold then return decide(ask, DENIED, UNKNOWN) end
    if hold.counted > 0 then write_mark(r.mark, r, now, hold.counted, 0, '') end
    decide(ask, CHARGED, SETTLED)
  end

  -- What a charge does to holds, before its request is decided. Openings come afterwards.
  function reserves.prepare(ask, now)
    local c, r = ask.counter, ask.reserve
    if r.action == OPEN and r.ticket ~= NO_TICKET then
      local hold = r.named and find(c, r.ticket)
      local mark = r.named and read_mark(r.mark, now)
      if hold or (mark and mark.settled) then
        decide(ask, CHARGED, KNOWN)
        r.amount, r.ends = hold and hold.amount or 0, hold and end_of(c, r.ticket) or now
      elseif call('ZCARD', c.holds) >= MAX_HOLDS then
        ask.capacity, r.event = 0, TOO_MANY
      end
    elseif r.action == SETTLE or r.action == PART or r.action == REST then
      settle(ask, now)
    elseif r.action == OLDEST then
      settle_oldest(ask)
    elseif r.action == COUNT then
      r.event, r.amount = LATE, ask.hits
    elseif r.action == EXTEND then
      prepare_extension(ask, now)
    elseif r.action == LOWER then
      lower(ask)
    elseif r.action == CANCEL then
      cancel(ask, now)
    end
  end

  -- Opens or raises a hold. What it took of the counter is held, and not counted.
  function reserves.open(ask, now)
    local c, r = ask.counter, ask.reserve
    if (r.action ~= OPEN and r.action ~= EXTEND) or ask.used or ask.outcome ~= CHARGED then return end
    c.level = c.level - ask.hits * c.parts
    if r.ticket == NO_TICKET then return end
    local hold = find(c, r.ticket)
    if r.action == EXTEND then return extend(c, r, hold, now) end
    if hold then
      hold.amount = hold.amount + ask.hits
    else
      -- A ticket that its caller names may have had a hold that has expired.
      local mark = r.named and read_mark(r.mark, now)
      hold = { amount = ask.hits, counted = mark and mark.amount or 0, anonymous = r.anonymous }
      call('ZADD', c.holds, text(now + micros(r.ttl)), r.ticket)
    end
    r.ends = now + micros(r.ttl)
    put(c, r.ticket, hold)
    add(c, ask.hits)
    keep(c, r, now)
    r.event, r.amount = OPENED, ask.hits
  end

  function reserves.answer(ask, reply, now)
    local c, r, n = ask.counter, ask.reserve, #reply
    local holds = call('ZRANGE', c.holds, 0, r.action == EXTEND and 1 or 0, 'WITHSCORES')
    -- Others deny an extension, not its own hold.
    local first = holds[r.action == EXTEND and holds[1] == r.ticket and 4 or 2]
    local settles = r.action == SETTLE or r.action == PART or r.action == REST or r.action == OLDEST or r.action == COUNT
    local counted = settles and not ask.used and ask.kind == ALWAYS and ask.hits or 0
    reply[n + 1], reply[n + 2], reply[n + 3] = r.event, c.held, call('ZCARD', c.holds)
    reply[n + 4], reply[n + 5], reply[n + 6] = first and max(0, tonumber(first) - now) or -1, r.amount, r.more
    reply[n + 7], reply[n + 8], reply[n + 9], reply[n + 10] = max(0, r.ends - now), r.returned, counted, r.expired
  end
end

