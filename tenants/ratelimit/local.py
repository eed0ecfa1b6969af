"""The script's arithmetic within one process."""

from collections.abc import Iterable, Sequence

from tenants.ratelimit.rules import TOLERANCE, Answer, Correction, Rule, Slots, burst_of, share_of

_MAX_LOCAL_BUCKETS = 20_000


class LocalBuckets:
    """The buckets of one process, which holds a ``workers``-th of every limit; the least recently used are dropped.

    Its slots count what this very process has under way, admitted by whomever.
    """

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._buckets: dict[str, tuple[float, float]] = {}
        self._busy: dict[str, int] = {}

    def take(self, rules: Sequence[Rule], now_us: float, slots: Sequence[Slots] = ()) -> Answer:
        """Takes the cost of every rule and one of all slots, or nothing."""
        fills = [self._fill_of(rule.key, rule.limit, rule.window_s, now_us) for rule in rules]
        busy = [self._busy.get(slot.key, 0) for slot in slots]
        for rule, fill in zip(rules, fills, strict=True):
            if fill + rule.cost > burst_of(rule, self._workers) + TOLERANCE:
                return Answer(False, fills, busy)
        for slot, taken in zip(slots, busy, strict=True):
            if taken >= share_of(slot, self._workers):
                return Answer(False, fills, busy)
        for i, rule in enumerate(rules):
            fills[i] += rule.cost
            self._keep(rule.key, fills[i], now_us)
        self.occupy(slots)
        return Answer(True, fills, [taken + 1 for taken in busy])

    def correct(self, corrections: Iterable[Correction], now_us: float) -> None:
        for fix in corrections:
            fill = self._fill_of(fix.key, fix.limit, fix.window_s, now_us)
            self._keep(fix.key, max(0.0, fill + fix.delta), now_us)

    def occupy(self, slots: Iterable[Slots]) -> None:
        """A request with these slots is under way in this process."""
        for slot in slots:
            self._busy[slot.key] = self._busy.get(slot.key, 0) + 1

    def vacate(self, slots: Iterable[Slots]) -> None:
        for slot in slots:
            left = self._busy.pop(slot.key, 1) - 1
            if left > 0:
                self._busy[slot.key] = left

    def _keep(self, key: str, fill: float, now_us: float) -> None:
        self._buckets.pop(key, None)
        self._buckets[key] = fill, now_us
        if len(self._buckets) > _MAX_LOCAL_BUCKETS:
            del self._buckets[next(iter(self._buckets))]

    def _fill_of(self, key: str, limit: int, window_s: float, now_us: float) -> float:
        fill, at = self._buckets.get(key, (0.0, now_us))
        return max(0.0, fill - max(0.0, now_us - at) * (limit / (window_s * 1_000_000 * self._workers)))
