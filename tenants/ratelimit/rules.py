"""What is limited. The script reads the fields by position: those it knows come first."""

from typing import Literal

from msgspec import Struct

TOLERANCE = 1e-6  # of a unit of cost: a bucket drained by fractions may keep 1e-16 too much

Scope = Literal["", "ip", "tenant", "project", "token", "user", "model"]


class Rule(Struct, frozen=True, array_like=True):
    """At most ``limit`` units of cost per ``window_s`` seconds for everything that shares ``key``.

    ``limit`` 0 means no limit. ``burst`` is how much may come at once, ``limit`` when None. The keys of one request's
    rules differ. What a rule in ``tokens`` takes is an estimate, see :class:`tenants.ratelimit.verdict.Lease`.
    Raises ValueError for figures that make no sense.
    """

    key: str
    limit: int
    window_s: float
    cost: int = 1
    burst: int | None = None
    unit: Literal["requests", "tokens"] = "requests"
    scope: Scope = ""

    def __post_init__(self) -> None:
        if self.limit < 0 or self.cost < 0 or self.window_s <= 0 or (self.burst is not None and self.burst < 1):
            raise ValueError("a rate limit has a positive window and burst, and no negative limit or cost")


class Slots(Struct, frozen=True, array_like=True):
    """At most ``limit`` requests under way at a time, of all that share ``key``. Raises ValueError for less than 1."""

    key: str
    limit: int
    scope: Scope = ""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError("a limit of requests under way is at least 1")


class Correction(Struct, frozen=True, array_like=True):
    """``delta`` units more (or less) in a rule's bucket, whether they fit or not."""

    key: str
    limit: int
    window_s: float
    delta: int


class Answer(Struct, frozen=True, array_like=True):
    """Whether a request may pass; after that, how full the bucket of each rule is and how many slots are taken."""

    allowed: bool
    fills: list[float]
    busy: list[int] = []


def burst_of(rule: Rule, workers: int) -> float:
    """What fits a bucket. A process' share is never too small for a request that the whole limit would let pass."""
    burst = rule.limit if rule.burst is None else rule.burst
    return burst if workers == 1 else max(burst / workers, min(rule.cost, burst))


def share_of(slots: Slots, workers: int) -> int:
    """How many requests one of ``workers`` processes may have under way."""
    return max(1, slots.limit // workers)
