"""The decision, in Redis. The same arithmetic as :class:`tenants.ratelimit.local.LocalBuckets`, number for number.

The algorithm for rates is GCRA: a bucket fills by the cost of each request and drains at ``limit`` per window; a
request that would make it spill is refused and takes nothing. A bucket is kept as (how full, when that was true) rather
than as a theoretical arrival time: it is the same algorithm, but the fill is a small number that stays exact, where a
timestamp in microseconds has few bits left for fractions, and a clock that jumps back does not lock anybody out.

Slots are a sorted set of leases by the time they end: whoever dies without giving his back does not keep them.
"""

import hashlib
from typing import Final

from tenants.ratelimit.rules import TOLERANCE

KEY_PREFIX: Final = "rl:"

# KEYS: of all requests in order, each one's buckets and then its slots; then those of the news, in order.
# ARGV[1]: msgpack, per request its rules and, where it needs slots, those and the name of its lease.
# ARGV[2]: msgpack, the news of requests admitted earlier: corrections, names of leases given back, and of leases to
# renew; empty when there are none. They act before anything is decided.
# ARGV[3]: how long a lease lasts, in microseconds. ARGV[4]: the time in microseconds, for tests; else Redis' own clock,
# so that all processes agree.
# Returns msgpack, per request its Answer.
SCRIPT: Final = """
local now = tonumber(ARGV[4])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
local lease_us = tonumber(ARGV[3])
local fills, ms_per_unit, taken_slots, leased = {}, {}, {}, {}

local function fill_of(key, drain)
  if not fills[key] then
    local fill, at = 0, now
    local bucket = redis.call('GET', key)
    if bucket then
      fill, at = struct.unpack('>dd', bucket)
    end
    fills[key] = math.max(0, fill - math.max(0, now - at) * drain)
  end
  return fills[key]
end

local function busy(key)
  if not taken_slots[key] then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    taken_slots[key] = redis.call('ZCARD', key)
  end
  return taken_slots[key]
end

local function lease(key, name)
  redis.call('ZADD', key, now + lease_us, name)
  leased[key] = true
end

if ARGV[2] ~= '' then
  local corrections, returned, renewed = unpack(cmsgpack.unpack(ARGV[2]))
  local before = #KEYS - #corrections - #returned - #renewed
  for i, correction in ipairs(corrections) do
    local key, limit, window_s = KEYS[before + i], correction[2], correction[3]
    fills[key] = math.max(0, fill_of(key, limit / (window_s * 1000000)) + correction[4])
    ms_per_unit[key] = window_s * 1000 / limit
  end
  before = before + #corrections
  for i, name in ipairs(returned) do
    redis.call('ZREM', KEYS[before + i], name)
  end
  before = before + #returned
  for i, name in ipairs(renewed) do
    lease(KEYS[before + i], name)
  end
end

local answers, before = {}, 0
for number, asked in ipairs(cmsgpack.unpack(ARGV[1])) do
  local rules, slots, name = asked[1], asked[2], asked[3]
  local allowed, after = true, {}
  for i, rule in ipairs(rules) do
    local limit, window_us, cost, burst = rule[2], rule[3] * 1000000, rule[4], rule[5] or rule[2]
    after[i] = fill_of(KEYS[before + i], limit / window_us)
    allowed = allowed and after[i] + cost <= burst + TOLERANCE
  end
  local taken
  if slots then
    taken = {}
    for i, slot in ipairs(slots) do
      taken[i] = busy(KEYS[before + #rules + i])
      allowed = allowed and taken[i] < slot[2]
    end
  end
  if allowed then
    for i, rule in ipairs(rules) do
      local key = KEYS[before + i]
      after[i] = after[i] + rule[4]
      fills[key] = after[i]
      ms_per_unit[key] = rule[3] * 1000 / rule[2]
    end
    if slots then
      for i, slot in ipairs(slots) do
        local key = KEYS[before + #rules + i]
        taken[i] = taken[i] + 1
        taken_slots[key] = taken[i]
        lease(key, name)
      end
    end
  end
  answers[number] = {allowed, after, taken}
  before = before + #rules + (slots and #slots or 0)
end

for key, ms in pairs(ms_per_unit) do
  redis.call('SET', key, struct.pack('>dd', fills[key], now), 'PX', math.ceil(fills[key] * ms) + 1)
end
for key in pairs(leased) do
  redis.call('PEXPIRE', key, math.ceil(lease_us / 1000))
end
return cmsgpack.pack(answers)
""".replace("TOLERANCE", str(TOLERANCE))
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
