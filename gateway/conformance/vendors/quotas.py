"""What depends on how often, and since when, a model was called: outages that end, limits that refill."""

import time
from dataclasses import dataclass

WINDOW_S = 2.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a rate limit after a call; ``reset_s``: seconds until it is whole again."""

    limit: int
    remaining: int
    reset_s: float
    exceeded: bool = False


EXHAUSTED = Quota(limit=1, remaining=0, reset_s=WINDOW_S, exceeded=True)


class ModelHistory:
    """The calls of one model since the start or the last reset."""

    def __init__(self) -> None:
        self._calls = 0
        self._first_call_at = 0.0
        self._windows: dict[str | None, tuple[float, int]] = {}

    def count(self) -> bool:
        """Notes a call; whether it is the first one."""
        self._calls += 1
        if self._calls == 1:
            self._first_call_at = time.monotonic()
        return self._calls == 1

    def is_down(self, outage_s: float) -> bool:
        """Whether an outage that began with the first call, and lasts so long, still goes on."""
        return time.monotonic() - self._first_call_at < outage_s

    def take(self, key: str | None, limit: int) -> Quota:
        """One call out of the ``limit`` that ``key`` has in a window, which its first call opens."""
        now = time.monotonic()
        opened_at, used = self._windows.get(key, (now, 0))
        if now - opened_at >= WINDOW_S:
            opened_at, used = now, 0
        exceeded = used >= limit
        used += not exceeded
        self._windows[key] = (opened_at, used)
        return Quota(limit, limit - used, opened_at + WINDOW_S - now, exceeded)
