-- Carries out requests that have only fixed windows and count in all of them or in none, in order.
--
-- Nearly always all of them pass. So the hits of the whole call are added to each counter first, and only if one of
-- them is then over its limit are the requests decided one by one, and the hits of the denied ones taken back.
--
-- KEYS     the counters, each once.
-- ARGV[1]  a byte for each counter: its form.
-- ARGV[2]  the forms, MessagePack: { hits of all requests that are not denied already, as text; as a number; used
--          hits up to which all of them pass; TTL in seconds, as text }
-- ARGV[3]  the requests, MessagePack: { 1 if it is denied already, else 0; and for each charge the index of its
--          counter in KEYS, its hits, and used hits from which it is denied }
-- Reply    0, and the hits used of each counter afterwards, if all passed; else 1, and a number for each charge: hits
--          used of its counter afterwards; -1 - that number for a request that was denied; UNREADABLE if a counter of
--          the request is.
local UNREADABLE = -2 ^ 62
local call, attempt, byte, type = redis.call, redis.pcall, string.byte, type

local kinds, forms = ARGV[1], cmsgpack.unpack(ARGV[2])
local reply, all_pass, has_written = { 0 }, true, false
for k = 1, #KEYS do
  local key, form = KEYS[k], forms[byte(kinds, k)]
  local hits, used = form[2], nil
  if hits == 0 then
    used = attempt('GET', key)
    if type(used) ~= 'table' then used = tonumber(used or 0) or {} end
  else
    used = attempt('INCRBY', key, form[1])
    if used == hits then call('EXPIRE', key, form[4]) end
  end
  if type(used) == 'number' then
    has_written = has_written or hits > 0
    all_pass = all_pass and used <= form[3]
  else
    -- A counter that holds something else is an error of its requests alone, any other error of all of them.
    local text = used.err or 'WRONGTYPE'
    local of_counter = text:find('WRONGTYPE') or text:find('not an integer') or text:find('overflow')
    if not of_counter and not has_written then return used end
    used, all_pass = false, false
  end
  reply[k + 1] = used
end
if all_pass then return reply end

local added, used = reply, {}
for k = 1, #KEYS do
  local after = added[k + 1]
  used[k] = after and math.max(0, after - forms[byte(kinds, k)][2])
end

reply = { 1 }
for _, request in ipairs(cmsgpack.unpack(ARGV[3])) do
  local denied, unreadable = request[1] == 1, false
  for i = 2, #request, 3 do
    local held = used[request[i]]
    unreadable = unreadable or not held
    denied = denied or not held or held >= request[i + 2]
  end
  for i = 2, #request, 3 do
    local k, number = request[i], UNREADABLE
    if not unreadable then
      if not denied then used[k] = used[k] + request[i + 1] end
      number = denied and -1 - used[k] or used[k]
    end
    reply[#reply + 1] = number
  end
end

for k = 1, #KEYS do
  local after, hits = added[k + 1], forms[byte(kinds, k)][2]
  if after and hits > 0 and after ~= used[k] then
    if used[k] == 0 and after == hits then
      call('DEL', KEYS[k])
    else
      call('INCRBY', KEYS[k], string.format('%.0f', used[k] - after))
    end
  end
end

return reply
