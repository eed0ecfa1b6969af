"""What operators measure us by, in Prometheus' form.

Labels are bounded: dialects, kinds of providers, outcomes and codes; never a tenant's words. With several workers
(``PROMETHEUS_MULTIPROC_DIR`` set, see :mod:`gateway.settings`) every process counts into files of one directory and
any of them can tell the sum.
"""

import asyncio
import os
from collections import defaultdict
from functools import lru_cache
from typing import Literal

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTED_AFTER_S = 0.2
MOST_UNCOUNTED = 1_000
TokenClass = Literal["input", "cached_input", "cache_write", "output", "reasoning"]

_OVERHEAD_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_DURATION_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)

registry = CollectorRegistry()

REQUESTS = Counter("pointsman_requests_total", "Requests answered.", ("dialect", "status", "code"), registry=registry)
DURATION = Histogram(
    "gen_ai_server_request_duration_seconds",
    "From the last byte of a request to the last byte of its answer.",
    ("dialect", "streamed"),
    buckets=_DURATION_S,
    registry=registry,
)
FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From the last byte of a request to its stream's first token.",
    ("dialect",),
    buckets=_DURATION_S,
    registry=registry,
)
OVERHEAD = Histogram(
    "pointsman_overhead_seconds", "Our own part of a request.", ("dialect",), buckets=_OVERHEAD_S, registry=registry
)
ATTEMPTS = Counter("pointsman_attempts_total", "Calls of vendors.", ("kind", "purpose", "outcome"), registry=registry)
TOKENS = Counter("gen_ai_client_token_usage_total", "Tokens by class.", ("class",), registry=registry)
COST = Counter("pointsman_cost_usd_total", "What vendors' answers cost, where the price is known.", registry=registry)
OPEN_STREAMS = Gauge("pointsman_open_streams", "Streams under way.", registry=registry, multiprocess_mode="livesum")
OPEN_CIRCUITS = Gauge(
    "pointsman_open_circuits", "Targets left alone by this process.", registry=registry, multiprocess_mode="livemax"
)
SETTLEMENTS_WAITING = Gauge(
    "pointsman_settlements_waiting",
    "Not in the ledger yet, nor on the disk.",
    registry=registry,
    multiprocess_mode="livesum",
)
LOG_ROWS_DROPPED = Gauge(
    "pointsman_request_log_rows_dropped", "Rows the request log lost.", registry=registry, multiprocess_mode="livesum"
)
RATE_LIMIT_DEGRADED = Counter(
    "pointsman_rate_limit_degraded_total", "Requests limited without Redis.", registry=registry
)


class AttemptFacts(Struct, frozen=True):
    """One call of a vendor; ``cost_usd`` is approximate (exact sums are the ledger's)."""

    kind: str
    purpose: str
    outcome: str
    tokens: tuple[tuple[TokenClass, int], ...]
    cost_usd: float | None


class RequestFacts(Struct, frozen=True):
    """One request that has been answered. Times in seconds."""

    dialect: str
    status: int
    code: str
    streamed: bool
    duration_s: float
    first_token_s: float | None
    overhead_s: float


_uncounted: list[RequestFacts | AttemptFacts] = []


def request_done(facts: RequestFacts) -> None:
    """To be called in the event loop, as :func:`attempt_done`."""
    _count_soon(facts)


def attempt_done(facts: AttemptFacts) -> None:
    _count_soon(facts)


def count_now() -> None:
    """Take in what is over but not counted yet."""
    waiting, _uncounted[:] = _uncounted[:], ()
    sums: dict[Counter, float] = defaultdict(float)
    for facts in waiting:
        if isinstance(facts, RequestFacts):
            sums[_requests(facts.dialect, str(facts.status), facts.code)] += 1
            _observe_times(facts)
        else:
            sums[_attempts(facts.kind, facts.purpose, facts.outcome)] += 1
            for name, count in facts.tokens:
                sums[_tokens(name)] += count
            sums[COST] += facts.cost_usd or 0.0
    for counter, amount in sums.items():
        counter.inc(amount)


def _count_soon(facts: RequestFacts | AttemptFacts) -> None:
    """Many are counted one after the other: beside each request, with the counters' code out of the processor's caches
    by then, counting takes several times as long."""
    _uncounted.append(facts)
    if len(_uncounted) == 1:
        asyncio.get_running_loop().call_later(COUNTED_AFTER_S, count_now)
    elif len(_uncounted) >= MOST_UNCOUNTED:
        count_now()


def _observe_times(facts: RequestFacts) -> None:
    _duration(facts.dialect, "true" if facts.streamed else "false").observe(facts.duration_s)
    _overhead(facts.dialect).observe(facts.overhead_s)
    if facts.first_token_s is not None:
        _first_token(facts.dialect).observe(facts.first_token_s)


def exposition() -> bytes:
    """Every metric as text; of all workers where there are several."""
    count_now()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(registry)
    everyone = CollectorRegistry()
    multiprocess.MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
    return generate_latest(everyone)


# Looking a child up by its labels costs more than counting: each combination is looked up once.
@lru_cache(maxsize=1024)
def _requests(dialect: str, status: str, code: str) -> Counter:
    return REQUESTS.labels(dialect, status, code)


@lru_cache(maxsize=64)
def _duration(dialect: str, streamed: str) -> Histogram:
    return DURATION.labels(dialect, streamed)


@lru_cache(maxsize=64)
def _overhead(dialect: str) -> Histogram:
    return OVERHEAD.labels(dialect)


@lru_cache(maxsize=64)
def _first_token(dialect: str) -> Histogram:
    return FIRST_TOKEN.labels(dialect)


@lru_cache(maxsize=1024)
def _attempts(kind: str, purpose: str, outcome: str) -> Counter:
    return ATTEMPTS.labels(kind, purpose, outcome)


@lru_cache(maxsize=16)
def _tokens(name: str) -> Counter:
    return TOKENS.labels(name)
