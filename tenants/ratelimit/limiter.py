"""Asks Redis, holds what admitted requests hold, and does without Redis.

All requests that wait in the same tick of the event loop share one call of the script; while a call is under way the
next batch gathers (group commit). What ended requests give back goes out with the next batch, or by itself a moment
later. When Redis fails, each process holds its share of every limit by itself until a probe in the background has
found Redis well again: a caller never sees an error, and at most once waits in vain.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections import deque
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

from tenants.ratelimit.limits import MOST_TOKENS
from tenants.ratelimit.local import LocalBuckets
from tenants.ratelimit.news import News
from tenants.ratelimit.rules import Answer, Correction, Rule, Slots
from tenants.ratelimit.script import KEY_PREFIX, SCRIPT, SCRIPT_SHA
from tenants.ratelimit.verdict import Holding, Lease, Verdict

logger = logging.getLogger(__name__)

LEASE_S: Final = 30.0  # how long a killed process keeps the slots of what it had under way

_MAX_BATCH: Final = 256  # requests a call: keeps Redis, which others use too, busy for a few milliseconds at most
_PROBE_INTERVAL_S: Final = 1.0
_CONNECT_TIMEOUT_S: Final = 1.0  # where nobody waits for it
_NEWS_AFTER_S: Final = 0.05  # unless a request takes it along before
_UNLIMITED: Final = Verdict(True)
_NO_NEWS: Final = News()
_answers: Final = msgpack.Decoder(list[Answer])


class _Waiting(Struct, eq=False):
    """``answered`` with None: decide alone."""

    rules: list[Rule]
    slots: Sequence[Slots]
    name: str  # of its lease, where it needs slots
    answered: "asyncio.Future[Verdict | None]"

    @property
    def limits(self) -> Sequence[Rule | Slots]:
        return [*self.rules, *self.slots] if self.slots else self.rules


class RateLimiter:
    """Asks Redis about all requests of a tick at once; belongs to the event loop that first uses it.

    ``workers`` is the number of processes that share the limits, for the time without Redis. ``timeout_s`` is how long
    a call may take before Redis counts as failed. ``lease_s`` is how long slots are kept for a process that is not
    heard of; a living one renews them three times in that.
    """

    def __init__(self, redis: Redis, *, workers: int, timeout_s: float = 0.05, lease_s: float = LEASE_S) -> None:
        # One connection of our own: the client's pool and command layer cost four times the exchange itself.
        self._connection: AbstractConnection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._connection.socket_timeout = None  # _exchange has the deadline
        self._connection.retry = Retry(NoBackoff(), 0)  # _call and the probe decide what is tried again
        self._workers = workers
        self._timeout_s = timeout_s
        self._lease_s = lease_s
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None  # empties the queue, or probes; never both
        self._local = LocalBuckets(workers)
        self._degraded = False
        self._probe_at = 0.0
        self._process, self._numbers = secrets.token_hex(6), itertools.count()
        self._held: dict[str, Holding] = {}  # with slots: what has to be renewed
        self._abandoned: deque[Holding] = deque()  # by leases that were lost
        self._news = News()
        self._closed = False
        self._news_timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None

    @property
    def degraded(self) -> bool:
        """True while Redis counts as failed and each process decides by itself."""
        return self._degraded

    async def check(self, rules: Sequence[Rule], slots: Sequence[Slots] = ()) -> Verdict:
        """Takes the cost of all rules and one of all slots, or nothing. Never raises on account of Redis, see
        ``Verdict.degraded``. Whoever is admitted has to end its ``Verdict.lease``."""
        limited = [rule for rule in rules if rule.limit]
        if not limited and not slots:
            return _UNLIMITED
        if self._degraded:
            self._probe_when_due()
            return self._decide_alone(limited, slots)
        loop = asyncio.get_running_loop()
        name = f"{self._process}{next(self._numbers):x}" if slots else ""
        waiting = _Waiting(limited, slots, name, loop.create_future())
        self._waiting.append(waiting)
        if self._task is None:
            self._task = loop.create_task(self._serve_waiting())
        return await waiting.answered or self._decide_alone(limited, slots)

    async def connect(self) -> None:
        """Tries Redis off every caller's path; at start-up, and by itself about once a second while degraded.

        Never raises. The connection is a new one, and the trial writes: a full Redis still answers reads.
        """
        probe = Rule("probe", limit=1_000, window_s=1.0)
        try:
            await self._connection.disconnect(nowait=True)
            await self._call([_Waiting([probe], (), "", asyncio.Future())], _NO_NEWS, _CONNECT_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an accelerator, requests go on
            self._degrade(error)
        else:
            if self._degraded:
                logger.info("rate limits are shared again")
                self._degraded = False
                self._renew(all_of_them=True)  # what came meanwhile counts for everybody from now on
        finally:
            self._task = None
            self._send_news_soon()

    async def aclose(self) -> None:
        """Gives back what is still held and closes the connection. Whoever still waits gets a degraded verdict."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            await self._connection.disconnect(nowait=True)  # a reply may still be under way
        self._release([])
        self._closed = True
        for holding in list(self._held.values()):
            self._give_back(holding, 0)
        self._take_in_abandoned()
        for timer in (self._news_timer, self._renewal):
            if timer is not None:
                timer.cancel()
        with contextlib.suppress(Exception):  # a process that is not heard of any more loses its slots as well
            while self._news and not self._degraded:
                await self._call([], self._next_news(), self._timeout_s)
        await self._connection.disconnect(nowait=True)

    # ------------------------------------------------------------------ deciding

    def _decide_alone(self, rules: list[Rule], slots: Sequence[Slots]) -> Verdict:
        self._take_in_abandoned()
        answer = self._local.take(rules, time.monotonic() * 1_000_000, slots)
        name = f"{self._process}{next(self._numbers):x}" if slots else ""
        lease = self._lease(rules, slots, name, shared=False) if answer.allowed else None
        return Verdict(answer.allowed, rules, slots, answer, self._workers, degraded=True, lease=lease)

    async def _serve_waiting(self, *, news_alone: bool = False) -> None:
        """Group commit: one call for all who came while the last one was under way, until nobody waits."""
        batch: list[_Waiting] = []
        news = _NO_NEWS
        try:
            while self._waiting or news_alone:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                if self._abandoned:
                    self._take_in_abandoned()
                news = self._next_news()
                news_alone = news_alone and bool(self._news)
                answers = await self._call(batch, news, self._timeout_s)
                for waiting, answer in zip(batch, answers, strict=True):
                    self._answer(waiting, answer)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an accelerator, requests go on
            self._degrade(error)
            self._news.add_again(news)
        finally:
            self._task = None
            self._release(batch)
            self._send_news_soon()

    def _answer(self, waiting: _Waiting, answer: Answer) -> None:
        lease = None
        if answer.allowed:
            if waiting.slots:
                self._local.occupy(waiting.slots)
            lease = self._lease(waiting.rules, waiting.slots, waiting.name, shared=True)
        if not waiting.answered.done():  # done: its caller hung up, and what it took goes back with the lease
            waiting.answered.set_result(Verdict(answer.allowed, waiting.rules, waiting.slots, answer, lease=lease))

    def _release(self, batch: list[_Waiting]) -> None:
        """Lets all decide alone who are still waiting, in ``batch`` or in the queue."""
        for waiting in batch + self._waiting:
            if not waiting.answered.done():
                waiting.answered.set_result(None)
        self._waiting = []

    # ------------------------------------------------------------------ what admitted requests hold

    def _lease(self, rules: list[Rule], slots: Sequence[Slots], name: str, *, shared: bool) -> Lease | None:
        tokens = [rule for rule in rules if rule.unit == "tokens"]
        if not tokens and not slots:
            return None
        holding = Holding(name, tokens, slots, shared, time.monotonic())
        if slots:
            self._held[name] = holding
            if self._renewal is None:
                self._renewal = asyncio.get_running_loop().call_later(self._lease_s / 3, self._renew)
        return Lease(holding, self._give_back, self._abandoned)

    def _give_back(self, holding: Holding, tokens: int) -> None:
        """Its request is over and has used so many tokens."""
        if holding.slots:
            self._held.pop(holding.name, None)
            self._local.vacate(holding.slots)
            if holding.shared or not self._degraded:
                self._news.returned += [(slot.key, holding.name) for slot in holding.slots]
        used = max(0, min(tokens, MOST_TOKENS))
        corrections = [
            Correction(rule.key, rule.limit, rule.window_s, used - rule.cost)
            for rule in holding.tokens
            if used != rule.cost
        ]
        if not holding.shared:
            self._local.correct(corrections, time.monotonic() * 1_000_000)
        elif not self._degraded:
            self._news.corrections += corrections
        self._send_news_soon()

    def _take_in_abandoned(self) -> None:
        while self._abandoned:
            self._give_back(self._abandoned.popleft(), 0)

    def _renew(self, *, all_of_them: bool = False) -> None:
        """Says of what is still under way that it is, and comes again as long as anything is."""
        self._take_in_abandoned()
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if not self._held:
            return
        now = time.monotonic()
        interval_s = self._lease_s / 3
        for holding in self._held.values():
            if all_of_them or now - holding.renewed_at >= interval_s / 2:
                holding.renewed_at = now
                self._news.renewed += [(slot.key, holding.name) for slot in holding.slots]
        self._renewal = asyncio.get_running_loop().call_later(interval_s, self._renew)
        self._send_news_soon()

    def _next_news(self) -> News:
        """What goes out now. A lease that was given back meanwhile must not be renewed after that."""
        if not self._news:
            return _NO_NEWS
        news = self._news.first(_MAX_BATCH)
        if news.renewed:
            news.renewed = [(key, name) for key, name in news.renewed if name in self._held]
        return news

    def _send_news_soon(self) -> None:
        if self._task is not None or self._news_timer is not None or self._degraded or self._closed:
            return  # somebody takes it along, or it has to wait
        if self._news:
            self._news_timer = asyncio.get_running_loop().call_later(_NEWS_AFTER_S, self._send_news)

    def _send_news(self) -> None:
        self._news_timer = None
        if self._news and not self._degraded and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve_waiting(news_alone=True))

    # ------------------------------------------------------------------ Redis

    def _degrade(self, error: Exception) -> None:
        if not self._degraded:
            logger.warning("rate limits degraded to per-process buckets: %s", type(error).__name__)
        self._degraded = True
        self._probe_at = time.monotonic() + _PROBE_INTERVAL_S

    def _probe_when_due(self) -> None:
        if self._task is None and time.monotonic() >= self._probe_at:
            self._task = asyncio.get_running_loop().create_task(self.connect())

    async def _call(self, batch: list[_Waiting], news: News, connect_timeout_s: float) -> list[Answer]:
        """One run of the script. Raises what the client raises, or TimeoutError."""
        keys = [KEY_PREFIX + limit.key for waiting in batch for limit in waiting.limits]
        told = b""
        if news is not _NO_NEWS:
            keys += [KEY_PREFIX + key for key in news.named_keys()]
            told = news.encoded()
        asked = [
            (waiting.rules, waiting.slots, waiting.name) if waiting.slots else (waiting.rules,) for waiting in batch
        ]
        lease_us = int(self._lease_s * 1_000_000)
        arguments: list[str | int | bytes] = [len(keys), *keys, msgpack.encode(asked), told, lease_us]
        script = "EVALSHA", SCRIPT_SHA
        may_be_stale = self._connection.is_connected
        while True:
            if not self._connection.is_connected:
                async with asyncio.timeout(connect_timeout_s):
                    await self._connection.connect()  # type: ignore[no-untyped-call]
            try:
                return _answers.decode(await self._exchange((*script, *arguments)))
            except NoScriptError:  # a restart or flush emptied Redis' cache
                script = "EVAL", SCRIPT
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
