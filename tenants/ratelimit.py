"""Rate limits: exact across processes by way of Redis, approximate but never absent without it.

The algorithm is GCRA: a bucket fills by the cost of each request and drains at ``limit`` per window; a request that
would make it spill is refused and takes nothing. A bucket is kept as (how full, when that was true) rather than as a
theoretical arrival time: it is the same algorithm, but the fill is a small number that stays exact, where a timestamp
in microseconds has few bits left for fractions, and a clock that jumps back does not lock anybody out.

All requests that wait in the same tick of the event loop share one call of a Lua script; while a call is under way the
next batch gathers (group commit). When Redis fails, each process holds its share of every limit by itself until a
probe in the background has found Redis well again: a caller never sees an error, and at most once waits in vain.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from typing import Final

import hiredis
from msgspec import Struct, msgpack
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

logger = logging.getLogger(__name__)

KEY_PREFIX: Final = "rl:"

_MAX_BATCH: Final = 256  # requests a call: keeps Redis, which others use too, busy for a few milliseconds at most
_PROBE_INTERVAL_S: Final = 1.0
_CONNECT_TIMEOUT_S: Final = 1.0  # where nobody waits for it
_MAX_LOCAL_BUCKETS: Final = 20_000
_TOLERANCE: Final = 1e-6  # of a unit of cost: a bucket drained by fractions may keep 1e-16 too much

# KEYS: the buckets of all rules of all requests, in order. ARGV[1]: msgpack, per request its rules, each as the fields
# of Rule in order. ARGV[2]: the time in microseconds, for tests; else Redis' own clock, so that all processes agree.
# Returns msgpack, per request its Answer. The same arithmetic as LocalBuckets, number for number.
_SCRIPT: Final = """
local now = tonumber(ARGV[2])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
local fills, ms_per_unit = {}, {}

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

local answers, taken = {}, 0
for number, rules in ipairs(cmsgpack.unpack(ARGV[1])) do
  local allowed, after = true, {}
  for i, rule in ipairs(rules) do
    local limit, window_us, cost, burst = rule[2], rule[3] * 1000000, rule[4], rule[5] or rule[2]
    after[i] = fill_of(KEYS[taken + i], limit / window_us)
    allowed = allowed and after[i] + cost <= burst + TOLERANCE
  end
  if allowed then
    for i, rule in ipairs(rules) do
      local key = KEYS[taken + i]
      after[i] = after[i] + rule[4]
      fills[key] = after[i]
      ms_per_unit[key] = rule[3] * 1000 / rule[2]
    end
  end
  answers[number] = {allowed, after}
  taken = taken + #rules
end

for key, ms in pairs(ms_per_unit) do
  redis.call('SET', key, struct.pack('>dd', fills[key], now), 'PX', math.ceil(fills[key] * ms) + 1)
end
return cmsgpack.pack(answers)
""".replace("TOLERANCE", str(_TOLERANCE))
_SCRIPT_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Rule(Struct, frozen=True, array_like=True):
    """At most ``limit`` units of cost per ``window_s`` seconds for everything that shares ``key``.

    ``limit`` 0 means no limit. ``burst`` is how much may come at once, ``limit`` when None. The keys of one request's
    rules differ. The script reads the fields by position. Raises ValueError for figures that make no sense.
    """

    key: str
    limit: int
    window_s: float
    cost: int = 1
    burst: int | None = None

    def __post_init__(self) -> None:
        if self.limit < 0 or self.cost < 0 or self.window_s <= 0 or (self.burst is not None and self.burst < 1):
            raise ValueError("a rate limit has a positive window and burst, and no negative limit or cost")


class Verdict(Struct, frozen=True):
    """What the rules of one request said together.

    Attributes:
        allowed: all rules agreed; otherwise nothing was taken from any.
        limit: of ``rule``, in units of cost; 0 where nothing is limited.
        remaining: whole units that would pass now.
        reset_s: seconds until the bucket is empty again.
        retry_after_s: seconds until this request can pass, 0 when it did. A cost above the burst never passes; the
            window's length stands for that.
        rule: the refusing rule with the longest wait, or the tightest of those that agreed; None: nothing is limited.
        degraded: this process decided by itself, on its share of the limits.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_s: float
    retry_after_s: float
    rule: Rule | None
    degraded: bool


Answer = tuple[bool, list[float]]
"""Whether a request may pass, and per rule how full its bucket is after that."""

_Waiting = tuple[list[Rule], asyncio.Future[Answer | None]]  # answered with None: decide alone
_UNLIMITED: Final = Verdict(True, 0, 0, 0.0, 0.0, None, False)
_answers: Final = msgpack.Decoder(list[Answer])


class LocalBuckets:
    """The buckets of one process, which holds a ``workers``-th of every limit; the least recently used are dropped."""

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, rules: Sequence[Rule], now_us: float) -> Answer:
        """Takes the cost of every rule, or of none."""
        fills = [self._fill_of(rule, now_us) for rule in rules]
        for rule, fill in zip(rules, fills, strict=True):
            if fill + rule.cost > _burst(rule, self._workers) + _TOLERANCE:
                return False, fills
        for i, rule in enumerate(rules):
            fills[i] += rule.cost
            self._buckets.pop(rule.key, None)
            self._buckets[rule.key] = fills[i], now_us
        while len(self._buckets) > _MAX_LOCAL_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return True, fills

    def _fill_of(self, rule: Rule, now_us: float) -> float:
        fill, at = self._buckets.get(rule.key, (0.0, now_us))
        return max(0.0, fill - max(0.0, now_us - at) * (rule.limit / (rule.window_s * 1_000_000 * self._workers)))


class RateLimiter:
    """Asks Redis about all requests of a tick at once; belongs to the event loop that first uses it.

    ``workers`` is the number of processes that share the limits, for the time without Redis. ``timeout_s`` is how long
    a call may take before Redis counts as failed.
    """

    def __init__(self, redis: Redis, *, workers: int, timeout_s: float = 0.05) -> None:
        # One connection of our own: the client's pool and command layer cost four times the exchange itself.
        self._connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._connection.socket_timeout = None  # _exchange has the deadline
        self._connection.retry = Retry(NoBackoff(), 0)  # _call and the probe decide what is tried again
        self._workers = workers
        self._timeout_s = timeout_s
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None  # empties the queue, or probes; never both
        self._local = LocalBuckets(workers)
        self._degraded = False
        self._probe_at = 0.0

    @property
    def degraded(self) -> bool:
        """True while Redis counts as failed and each process decides by itself."""
        return self._degraded

    async def check(self, rules: Sequence[Rule]) -> Verdict:
        """Takes the cost of all rules or of none. Never raises on account of Redis, see ``Verdict.degraded``."""
        limited = [rule for rule in rules if rule.limit]
        if not limited:
            return _UNLIMITED
        if self._degraded:
            self._probe_when_due()
            return self._decide_alone(limited)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer | None] = loop.create_future()
        self._waiting.append((limited, answered))
        if self._task is None:
            self._task = loop.create_task(self._serve_waiting())
        answer = await answered
        return self._decide_alone(limited) if answer is None else _verdict(limited, answer)

    async def connect(self) -> None:
        """Tries Redis off every caller's path; at start-up, and by itself about once a second while degraded.

        Never raises. The connection is a new one, and the trial writes: a full Redis still answers reads.
        """
        try:
            await self._connection.disconnect(nowait=True)
            await self._call([[Rule("probe", limit=1_000, window_s=1.0)]], _CONNECT_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an accelerator, requests go on
            self._degrade(error)
        else:
            if self._degraded:
                logger.info("rate limits are shared again")
            self._degraded = False
        finally:
            self._task = None

    async def aclose(self) -> None:
        """Closes the connection. Whoever still waits gets a degraded verdict."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._release([])
        await self._connection.disconnect(nowait=True)

    def _decide_alone(self, rules: list[Rule]) -> Verdict:
        return _verdict(rules, self._local.take(rules, time.monotonic() * 1_000_000), self._workers, degraded=True)

    async def _serve_waiting(self) -> None:
        """Group commit: one call for all who came while the last one was under way, until nobody waits."""
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                answers = await self._call([rules for rules, _ in batch], self._timeout_s)
                for (_, answered), answer in zip(batch, answers, strict=True):
                    if not answered.done():  # done: its caller hung up
                        answered.set_result(answer)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an accelerator, requests go on
            self._degrade(error)
        finally:
            self._task = None
            self._release(batch)

    def _release(self, batch: list[_Waiting]) -> None:
        """Lets all decide alone who are still waiting, in ``batch`` or in the queue."""
        for _, answered in batch + self._waiting:
            if not answered.done():
                answered.set_result(None)
        self._waiting = []

    def _degrade(self, error: Exception) -> None:
        if not self._degraded:
            logger.warning("rate limits degraded to per-process buckets: %s", type(error).__name__)
        self._degraded = True
        self._probe_at = time.monotonic() + _PROBE_INTERVAL_S

    def _probe_when_due(self) -> None:
        if self._task is None and time.monotonic() >= self._probe_at:
            self._task = asyncio.get_running_loop().create_task(self.connect())

    async def _call(self, requests: list[list[Rule]], connect_timeout_s: float) -> list[Answer]:
        """One run of the script. Raises what the client raises, or TimeoutError."""
        keys = [KEY_PREFIX + rule.key for rules in requests for rule in rules]
        arguments: list[str | int | bytes] = [len(keys), *keys, msgpack.encode(requests)]
        script = "EVALSHA", _SCRIPT_SHA
        may_be_stale = self._connection.is_connected
        while True:
            if not self._connection.is_connected:
                async with asyncio.timeout(connect_timeout_s):
                    await self._connection.connect()  # type: ignore[no-untyped-call]
            try:
                return _answers.decode(await self._exchange((*script, *arguments)))
            except NoScriptError:  # a restart or flush emptied Redis' cache
                script = "EVAL", _SCRIPT
            except RedisConnectionError:  # the other side closes idle connections, and all of them when it restarts
                if not may_be_stale:
                    raise
                may_be_stale = False

    async def _exchange(self, command: tuple[str | int | bytes, ...]) -> bytes:
        """Sends a command and reads its reply within ``timeout_s``.

        The deadline is set in two halves: when the event loop itself was held up, the reply lies in the socket
        unread, and the second half gives the loop the turn it needs to read it.
        """
        loop, half_s = asyncio.get_running_loop(), self._timeout_s / 2
        async with asyncio.timeout(None) as deadline:
            half_time = loop.call_later(half_s, lambda: deadline.reschedule(loop.time() + half_s))
            try:
                packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # typed as if of one element
                await self._connection.send_packed_command(packed, check_health=False)
                reply: bytes = await self._connection.read_response(disable_decoding=True)
            finally:
                half_time.cancel()
        return reply


def _burst(rule: Rule, workers: int) -> float:
    """What fits a bucket. A process' share is never too small for a request that the whole limit would let pass."""
    burst = rule.limit if rule.burst is None else rule.burst
    return burst if workers == 1 else max(burst / workers, min(rule.cost, burst))


def _verdict(rules: list[Rule], answer: Answer, workers: int = 1, *, degraded: bool = False) -> Verdict:
    """Picks the rule that decides and says what it leaves."""
    allowed, fills = answer
    deciding, most, burst, fill = rules[0], -1.0, 0.0, 0.0
    for rule, rule_fill in zip(rules, fills, strict=True):
        rule_burst = _burst(rule, workers)
        weight = rule_fill / rule_burst if allowed else _wait_s(rule, rule_fill, rule_burst, workers)
        if weight > most:
            deciding, most, burst, fill = rule, weight, rule_burst, rule_fill
    return Verdict(
        allowed=allowed,
        limit=deciding.limit,
        remaining=max(0, int(burst - fill + _TOLERANCE)),
        reset_s=fill * deciding.window_s * workers / deciding.limit,
        retry_after_s=0.0 if allowed else most,
        rule=deciding,
        degraded=degraded,
    )


def _wait_s(rule: Rule, fill: float, burst: float, workers: int) -> float:
    """Seconds until ``rule`` would let its cost pass."""
    if rule.cost > burst:
        return rule.window_s
    return max(0.0, fill + rule.cost - burst) * rule.window_s * workers / rule.limit
