-- Carries out requests that have one sliding window each and count only if they pass, in order, as
-- `engine::algorithm::sliding_window` does.
--
-- KEYS     the counter of each request.
-- ARGV[1]  a byte for each request: its form.
-- ARGV[2]  the forms, MessagePack: { hits; used hits from which it is denied; window in ticks; length of a tick in
--          microseconds; TTL in seconds, as text }
-- ARGV[3]  now, in microseconds; empty for the server's own time.
-- Reply    three numbers for each request: hits of the current window afterwards, or -1 - that number if it was
--          denied, or UNREADABLE; hits of the previous window; number of the window. And last, now.
local UNREADABLE, MAX_SKEW_US = -2 ^ 62, 1000000
local call, byte, match, format, tonumber = redis.call, string.byte, string.match, string.format, tonumber
local floor, ceil = math.floor, math.ceil

local now_us = tonumber(ARGV[3])
if not now_us then
  local time = call('TIME')
  now_us = time[1] * 1000000 + time[2]
end

local kinds, forms, held = ARGV[1], cmsgpack.unpack(ARGV[2]), call('MGET', unpack(KEYS))
for _, form in ipairs(forms) do
  local now = floor(now_us / form[4])
  form.now, form.own, form.latest = now, floor(now / form[3]), now + floor(MAX_SKEW_US / form[4])
end

-- The state of a counter is at the index of its first request; it has a TTL if it is to be written.
local first, windows, currents, previouses, ttls = {}, {}, {}, {}, {}
local reply = {}
for k = 1, #KEYS do
  local key, form = KEYS[k], forms[byte(kinds, k)]
  local f = first[key]
  if not f then
    f, first[key] = k, k
    local text = held[k]
    if text then
      local window, current, previous = match(text, '^(%d+) (%d+) (%d+)$')
      windows[k], currents[k], previouses[k] = tonumber(window), tonumber(current), tonumber(previous)
    else
      windows[k], currents[k], previouses[k] = 0, 0, 0
    end
  end
  local window, current, previous, number = windows[f], currents[f], previouses[f], 0
  if window then
    local hits, length, own = form[1], form[3], form.own
    if window * length > form.latest then
      window, windows[f], ttls[f] = own, own, form[5]
    end
    number = own > window and own or window
    if number - window == 1 then
      current, previous = 0, current
    elseif number > window then
      current, previous = 0, 0
    end
    local left = (number + 1) * length - form.now
    if left > length then left = length end
    if ceil((previous * left + current * length) / length) >= form[2] then
      current = -1 - current
    elseif hits > 0 then
      current = current + hits
      windows[f], currents[f], previouses[f], ttls[f] = number, current, previous, form[5]
    end
  else
    current, previous = UNREADABLE, 0
  end
  local at = 3 * k
  reply[at - 2], reply[at - 1], reply[at] = current, previous, number
end

for k = 1, #KEYS do
  local key = KEYS[k]
  local f = first[key]
  if ttls[k] then
    local value = format('%.0f %.0f %.0f', windows[k], currents[k], previouses[k])
    if held[k] then
      call('SET', key, value, 'EX', ttls[k])
    elseif not call('SET', key, value, 'EX', ttls[k], 'NX') then
      -- A key of another type, which MGET does not report.
      windows[k] = nil
    end
  end
  if not windows[f] then reply[3 * k - 2] = UNREADABLE end
end

reply[3 * #KEYS + 1] = now_us
return reply
