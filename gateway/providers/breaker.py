"""One circuit breaker: when a target is left alone, and how it is tried again.

    closed     everything passes; too many failures open it
    open       nothing passes until the cool-down is over
    half-open  one call at a time passes, as a probe: its success closes the circuit, its failure opens it again
               for twice as long

No clock and no I/O: whoever uses it brings the time, in seconds of one monotonic clock.
"""

from collections import deque
from typing import Literal

from msgspec import Struct

State = Literal["closed", "open", "half_open"]


class BreakerRules(Struct, frozen=True):
    """When a circuit opens and for how long; times in seconds."""

    failures_in_a_row: int = 5
    failure_share: float = 0.5
    calls_for_share: int = 10
    window_s: float = 30.0
    cool_down_s: float = 5.0
    longest_cool_down_s: float = 20.0  # a target is back in use within 30 s of its recovery
    probe_lease_s: float = 30.0  # a probe that never tells how it went


class Breaker:
    """The state of one target. ``by_hand`` is an operator's trip: it stays open until it is reset."""

    __slots__ = (
        "_calls",
        "_in_a_row",
        "_rules",
        "by_hand",
        "cool_down_s",
        "last_error",
        "opened_at",
        "probing_until",
        "retry_at",
    )

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self._calls: deque[tuple[float, bool]] = deque(maxlen=1000)
        self._in_a_row = 0
        self.opened_at: float | None = None
        self.retry_at = 0.0
        self.cool_down_s = rules.cool_down_s
        self.probing_until = 0.0
        self.last_error = ""
        self.by_hand = False

    def state(self, now: float) -> State:
        if self.opened_at is None:
            return "closed"
        return "open" if self.by_hand or now < self.retry_at else "half_open"

    def may_probe(self, now: float) -> bool:
        """Whether a probe may start here; it has to be taken with :meth:`begin_probe`."""
        return self.state(now) == "half_open" and now >= self.probing_until

    def begin_probe(self, now: float) -> None:
        self.probing_until = now + self._rules.probe_lease_s

    def abandon_probe(self) -> None:
        """The probing call ended without a verdict."""
        self.probing_until = 0.0

    def succeeded(self, now: float) -> bool:
        """Notes an answer. True when it closed the circuit."""
        self._in_a_row = 0
        if self.opened_at is None:
            self._calls.append((now, True))
            return False
        if self.by_hand:
            return False
        self.close()
        return True

    def failed(self, now: float, error: str) -> bool:
        """Notes a failure. True when it opened the circuit, or kept it open for longer."""
        self.last_error = error
        if self.opened_at is not None:
            if self.state(now) != "half_open":
                return False  # a call from before it opened
            longest_s = max(self._rules.longest_cool_down_s, self._rules.cool_down_s)
            self.cool_down_s = min(2 * self.cool_down_s, longest_s)
            self.open(now)
            return True
        self._in_a_row += 1
        self._calls.append((now, False))
        if self._in_a_row < self._rules.failures_in_a_row and not self._mostly_failing(now):
            return False
        self.open(now)
        return True

    def open(self, now: float, *, by_hand: bool = False) -> None:
        self.opened_at = now
        self.retry_at = now + self.cool_down_s
        self.probing_until = 0.0
        self.by_hand = by_hand

    def close(self) -> None:
        self.opened_at = None
        self.by_hand = False
        self.probing_until = 0.0
        self.cool_down_s = self._rules.cool_down_s
        self._in_a_row = 0
        self._calls.clear()

    def success_rate(self, now: float) -> float | None:
        """Of the calls within the window; None while there are too few to tell."""
        calls = self._within_window(now)
        return sum(ok for _, ok in calls) / len(calls) if len(calls) >= self._rules.calls_for_share else None

    def _within_window(self, now: float) -> deque[tuple[float, bool]]:
        calls = self._calls
        while calls and calls[0][0] < now - self._rules.window_s:
            calls.popleft()
        return calls

    def _mostly_failing(self, now: float) -> bool:
        calls = self._within_window(now)
        if len(calls) < self._rules.calls_for_share:
            return False
        return sum(not ok for _, ok in calls) >= self._rules.failure_share * len(calls)
