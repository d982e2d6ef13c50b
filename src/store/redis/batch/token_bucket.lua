-- Carries out requests that have one token bucket each and count only if they pass, in order, as
-- `engine::algorithm::token_bucket` does.
--
-- KEYS     the bucket of each request.
-- ARGV[1]  a byte for each request: its form.
-- ARGV[2]  the forms, MessagePack: { hits; used hits from which it is denied; window in ticks; length of a tick in
--          microseconds; TTL in seconds, as text; limit in hits per window; upper bound on the level }
-- ARGV[3]  now, in microseconds; empty for the server's own time.
-- Reply    two numbers for each request: level of the bucket afterwards, or -1 - that number if it was denied, or
--          UNREADABLE; time of the level. And last, now.
local UNREADABLE, MAX_SKEW_US, NEVER = -2 ^ 62, 1000000, 2 ^ 53
local call, byte, match, format, tonumber = redis.call, string.byte, string.match, string.format, tonumber
local floor, ceil, min = math.floor, math.ceil, math.min

local now_us = tonumber(ARGV[3])
if not now_us then
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
end

local kinds, forms, held = ARGV[1], cmsgpack.unpack(ARGV[2]), call('MGET', unpack(KEYS))
for _, form in ipairs(forms) do
  local now = floor(now_us / form[4])
  form.now, form.latest = now, now + floor(MAX_SKEW_US / form[4])
end

-- The state of a bucket is at the index of its first request; it has a TTL if it is to be written.
local first, times, levels, ticks, ttls = {}, {}, {}, {}, {}
local reply = {}
for k = 1, #KEYS do
  local key, form = KEYS[k], forms[byte(kinds, k)]
  local tick = form[4]
  local f = first[key]
  if not f then
    f, first[key] = k, k
    local text = held[k]
    if text then
      local at, level, held_tick = match(text, '^(%d+) (%d+) ?(%d*)$')
      times[k], levels[k] = tonumber(at), tonumber(level)
      -- A tick of a microsecond is not written.
      ticks[k] = held_tick == '' and 1 or tonumber(held_tick)
    else
      times[k], levels[k], ticks[k] = 0, 0, tick
    end
  end
  local at, level = times[f], levels[f]
  if at then
    local now, hits, length = form.now, form[1], form[3]
    if ticks[f] ~= tick then
      -- An older version of the rule used ticks of another length.
      at = min(ceil(at * ticks[f] / tick), NEVER)
      level = min(ceil(level * ticks[f] / tick), NEVER)
      times[f], levels[f], ticks[f], ttls[f] = at, level, tick, form[5]
    end
    if at > form.latest then
      at, times[f], ttls[f] = now, now, form[5]
    end
    if now > at then
      level = level - (now - at) * form[6]
      if level < 0 then level = 0 end
      at = now
    end
    -- An older version of the rule may have let more be missing.
    if level > form[7] then level = form[7] end
    if ceil(level / length) >= form[2] then
      level = -1 - level
    elseif hits > 0 then
      level = level + hits * length
      times[f], levels[f], ttls[f] = at, level, form[5]
    end
  else
    level, at = UNREADABLE, 0
  end
  reply[2 * k - 1], reply[2 * k] = level, at
end

for k = 1, #KEYS do
  local key = KEYS[k]
  local f = first[key]
  if ttls[k] then
    local value = format('%.0f %.0f', times[k], levels[k])
    if ticks[k] ~= 1 then value = value .. format(' %.0f', ticks[k]) end
    if held[k] then
      call('SET', key, value, 'EX', ttls[k])
    elseif not call('SET', key, value, 'EX', ttls[k], 'NX') then
      -- A key of another type, which MGET does not report.
      times[k] = nil
    end
  end
  if not times[f] then reply[2 * k - 1] = UNREADABLE end
end

reply[2 * #KEYS + 1] = now_us
return reply
