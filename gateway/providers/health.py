"""How the targets are doing, as far as this process and its siblings know: breakers, rate limits, pace.

What is asked on every request is answered from memory. Openings and closings travel through one Redis hash that
every process reads once a second and writes beside the traffic; the newer entry wins, an operator's always. Redis
being away, hung or flushed changes nothing here: each process goes on with what it sees itself.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct
from redis.exceptions import RedisError

from gateway.errors import ProviderError
from gateway.providers.breaker import Breaker, BreakerRules
from gateway.providers.headroom import exhausted_for, share_left

logger = logging.getLogger(__name__)

SHARED_KEY = "pointsman:circuits"
POLL_S = 1.0
REDIS_TIMEOUT_S = 0.5
PROBE_TIMEOUT_S = 0.05  # on a caller's time
CLOSED_KEPT_S = 60.0  # how long a closing stays to be read
MOST_CIRCUITS = 10_000
REMEMBERED_TIMES = 200
FEWEST_TIMES = 20
LONGEST_PAUSE_S = 60.0
PAUSE_UNTOLD_S = 1.0  # after a 429 that does not say how long

# KEYS: the hash. ARGV: the circuit, its entry. A late write loses to a newer entry, and no process undoes by itself
# what an operator has tripped.
WRITE_SCRIPT = """
local before = redis.call('HGET', KEYS[1], ARGV[1])
if before then
  local old, new = cjson.decode(before), cjson.decode(ARGV[2])
  if not new.by_hand and (old.at > new.at or (old.by_hand and old.state == 'open')) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""

_NOT_THE_TARGETS_FAULT = frozenset({400, 402, 409, 413, 422, 429})


class SharedCircuit(Struct):
    """One entry of the shared hash; times in seconds since 1970."""

    state: str  # open | closed
    at: float
    retry_at: float = 0.0
    error: str = ""
    by_hand: bool = False


class TargetHealth:
    """One per process. ``circuit`` is :attr:`gateway.providers.target.Target.circuit` throughout."""

    def __init__(self, shared: redis.asyncio.Redis, rules: BreakerRules | None = None) -> None:
        self._redis = shared
        self._rules = rules or BreakerRules()
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        self._not_closed: set[str] = set()
        self._paused_until: dict[str, float] = {}
        self._times: dict[str, deque[float]] = {}
        self._latest_headers: dict[str, Mapping[str, str]] = {}
        self._changed_at: dict[str, float] = {}
        self._following: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        while self._following is not None and not self._following.done():
            self._following.cancel()  # repeated: redis-py swallows a cancellation that meets it while connecting
            await asyncio.wait((self._following,), timeout=POLL_S)
        for task in self._publishing:
            task.cancel()

    # ------------------------------------------------------------------ asked by the dispatcher

    def admits(self, circuit: str) -> bool:
        """Whether the circuit is closed."""
        return circuit not in self._not_closed

    async def try_probe(self, circuit: str) -> bool:
        """Whether this call may be the one that tries an open circuit again, over all processes."""
        breaker = self._breakers[circuit]
        now = time.monotonic()
        if not breaker.may_probe(now):
            return False
        breaker.begin_probe(now)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                lease_ms = int(self._rules.probe_lease_s * 1000)
                mine = await self._redis.set(_probe_key(circuit), b"1", nx=True, px=lease_ms)
        except (RedisError, OSError, TimeoutError):
            return True  # alone, each process sends its own probe
        if not mine:
            breaker.abandon_probe()
        return bool(mine)

    def retry_in(self, circuit: str) -> float:
        """Seconds until an open circuit is tried again."""
        breaker = self._breakers.get(circuit)
        return max(0.0, breaker.retry_at - time.monotonic()) if breaker else 0.0

    def paused_for(self, circuit: str) -> float:
        """Seconds this target should be left alone because its vendor's rate limit is reached; mostly 0."""
        until = self._paused_until.get(circuit)
        if until is None:
            return 0.0
        left = until - time.monotonic()
        if left <= 0:
            del self._paused_until[circuit]
            return 0.0
        return left

    def first_token_s(self, circuit: str, quantile: float) -> float | None:
        """How long first tokens (of whole answers: all of it) took of late; None before there are enough."""
        times = self._times.get(circuit)
        if times is None or len(times) < FEWEST_TIMES:
            return None
        return sorted(times)[min(int(quantile * len(times)), len(times) - 1)]

    def success_rate(self, circuit: str) -> float | None:
        """Of the latest calls, 0-1; None while there are too few."""
        breaker = self._breakers.get(circuit)
        return breaker.success_rate(time.monotonic()) if breaker else None

    def headroom(self, circuit: str) -> float | None:
        """What the vendor last said is left of its rate limit, 0-1; None where it says nothing of it."""
        headers = self._latest_headers.get(circuit)
        return share_left(headers) if headers else None

    @property
    def all_well(self) -> bool:
        """Whether every circuit is closed and no target is to be left alone."""
        return not self._not_closed and not self._paused_until

    @property
    def open_circuits(self) -> int:
        return len(self._not_closed)

    # ------------------------------------------------------------------ told by the dispatcher

    def succeeded(self, circuit: str, first_token_s: float) -> None:
        times = self._times.get(circuit)
        if times is None:
            times = self._times[circuit] = deque(maxlen=REMEMBERED_TIMES)
        times.append(first_token_s)
        breaker = self._breaker(circuit)
        if breaker.succeeded(time.monotonic()):
            self._not_closed.discard(circuit)
            self._publish(circuit, SharedCircuit("closed", time.time()))
            self._in_background(self._release_probe(circuit))

    def failed(self, circuit: str, error: ProviderError) -> None:
        if error.vendor_status == 429:
            pause_s = PAUSE_UNTOLD_S if error.retry_after_s is None else error.retry_after_s
            self._pause(circuit, pause_s)
        if error.vendor_status in _NOT_THE_TARGETS_FAULT or error.kind == "diverged":
            self.abandoned_probe(circuit)
            return
        breaker = self._breaker(circuit)
        told = f"{error.kind} {error.vendor_status}" if error.vendor_status else error.kind
        if breaker.failed(time.monotonic(), told):
            self._not_closed.add(circuit)
            logger.warning("circuit %s is open for %.0f s: %s", circuit, breaker.cool_down_s, told)
            self._publish(circuit, _shared_opening(breaker))
            self._in_background(self._end_probe_with_cool_down(circuit, breaker.cool_down_s))

    def abandoned_probe(self, circuit: str) -> None:
        """A call ended without saying anything about the target: another one may probe."""
        if circuit in self._not_closed:
            self._breakers[circuit].abandon_probe()
            self._in_background(self._release_probe(circuit))

    def saw_headers(self, circuit: str, headers: Mapping[str, str]) -> None:
        """Vendors say on each answer what is left of their rate limits."""
        if len(self._latest_headers) >= MOST_CIRCUITS:
            self._latest_headers.clear()
        self._latest_headers[circuit] = headers
        if (pause_s := exhausted_for(headers)) is not None:
            self._pause(circuit, pause_s)

    # ------------------------------------------------------------------ shared

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    shared = await read_shared(self._redis)
                self._adopt(shared)
            except (RedisError, OSError, TimeoutError):
                pass  # the request path reports Redis' state; here nothing depends on it
            except Exception:
                logger.exception("circuits cannot be followed because of a bug")
            await asyncio.sleep(POLL_S)

    def _adopt(self, shared: Mapping[str, SharedCircuit]) -> None:
        """What others, or an operator, have decided since we last changed our mind."""
        now, wall = time.monotonic(), time.time()
        for circuit, entry in shared.items():
            breaker = self._breaker(circuit)
            tripped = entry.by_hand and entry.state == "open" and not breaker.by_hand
            if entry.at <= self._changed_at.get(circuit, 0.0) and not tripped:
                continue
            self._changed_at[circuit] = entry.at
            if entry.state == "closed":
                breaker.close()
                self._not_closed.discard(circuit)
            else:
                breaker.open(now, by_hand=entry.by_hand)
                breaker.retry_at = now + entry.retry_at - wall
                breaker.last_error = entry.error
                self._not_closed.add(circuit)

    def _publish(self, circuit: str, entry: SharedCircuit) -> None:
        self._changed_at[circuit] = entry.at
        self._in_background(write_shared(self._redis, circuit, entry))

    async def _release_probe(self, circuit: str) -> None:
        await self._redis.delete(_probe_key(circuit))

    async def _end_probe_with_cool_down(self, circuit: str, cool_down_s: float) -> None:
        """A failed probe's lease would outlast the cool-down; gone at once, those who have not heard would probe."""
        await self._redis.pexpire(_probe_key(circuit), int(cool_down_s * 1000))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        async def attempt() -> None:
            try:
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    await work
            except (RedisError, OSError, TimeoutError):
                pass  # each process goes on with its own

        task = asyncio.create_task(attempt())
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    # ------------------------------------------------------------------ memory

    def _breaker(self, circuit: str) -> Breaker:
        breaker = self._breakers.get(circuit)
        if breaker is None:
            breaker = self._breakers[circuit] = Breaker(self._rules)
            if len(self._breakers) > MOST_CIRCUITS:
                forgotten, _ = self._breakers.popitem(last=False)
                self._not_closed.discard(forgotten)
                self._times.pop(forgotten, None)
                self._changed_at.pop(forgotten, None)
        return breaker

    def _pause(self, circuit: str, seconds: float) -> None:
        if len(self._paused_until) >= MOST_CIRCUITS:
            self._paused_until.clear()
        self._paused_until[circuit] = time.monotonic() + min(seconds, LONGEST_PAUSE_S)


async def read_shared(shared: redis.asyncio.Redis) -> dict[str, SharedCircuit]:
    """Every circuit that is open anywhere, and those closed a moment ago. Raises RedisError."""
    entries: dict[bytes, bytes] = await shared.hgetall(SHARED_KEY)  # type: ignore[misc, assignment] # redis-py types sync and async at once
    circuits = decode_shared(entries)
    old = [
        name for name, entry in circuits.items() if entry.state == "closed" and entry.at < time.time() - CLOSED_KEPT_S
    ]
    if old:
        await shared.hdel(SHARED_KEY, *old)  # type: ignore[misc]
    return circuits


def decode_shared(entries: Mapping[bytes, bytes]) -> dict[str, SharedCircuit]:
    """The shared hash by circuit; what is not one of our entries is left out."""
    circuits = {}
    for name, raw in entries.items():
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            circuits[name.decode()] = msgspec.json.decode(raw, type=SharedCircuit)
    return circuits


async def write_shared(shared: redis.asyncio.Redis, circuit: str, entry: SharedCircuit) -> None:
    """Unless the entry there is newer or an operator's. Raises RedisError."""
    await shared.eval(WRITE_SCRIPT, 1, SHARED_KEY, circuit, msgspec.json.encode(entry).decode())  # type: ignore[misc]


def tripped_by_hand() -> SharedCircuit:
    """An operator's opening: it stays until somebody resets it."""
    return SharedCircuit("open", time.time(), error="tripped by hand", by_hand=True)


def reset_by_hand() -> SharedCircuit:
    """An operator's closing, whoever opened it."""
    return SharedCircuit("closed", time.time(), by_hand=True)


def _shared_opening(breaker: Breaker) -> SharedCircuit:
    now = time.time()
    return SharedCircuit("open", now, now + breaker.cool_down_s, breaker.last_error)


def _probe_key(circuit: str) -> str:
    return f"pointsman:probe:{circuit}"
