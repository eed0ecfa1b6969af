"""How an arm's answers turned out, besides their quality: sums that grow by one answer at a time."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LATENCY_BOUNDS_MS = tuple(round(10 ** (1 + step / 20), 3) for step in range(101))
"""Upper bounds of the latency buckets, twenty to a decade from 10 ms to 1,000 s; one more takes what is above."""


@dataclass(slots=True)
class ArmTotals:
    """Sums over one arm's answers. ``priced`` of the ``requests`` have a known cost; ``cost_squares`` are USD squared;
    ``latency_counts`` is a histogram by LATENCY_BOUNDS_MS of those that have a latency."""

    requests: int = 0
    priced: int = 0
    cost_usd: float = 0.0
    cost_squares: float = 0.0
    failed: int = 0
    refused: int = 0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))

    def add(
        self, *, cost_usd: float | None, latency_ms: float | None, failed: bool = False, refused: bool = False
    ) -> None:
        """Take in one answer, or the failure to give one."""
        self.requests += 1
        self.failed += failed
        self.refused += refused
        if cost_usd is not None:
            self.priced += 1
            self.cost_usd += cost_usd
            self.cost_squares += cost_usd**2
        if latency_ms is not None:
            self.latency_counts[bisect.bisect_left(LATENCY_BOUNDS_MS, latency_ms)] += 1

    @property
    def cost_per_1000(self) -> float | None:
        """USD per 1,000 requests; None while no cost is known."""
        return 1_000 * self.cost_usd / self.priced if self.priced else None

    def p95_ms(self) -> float | None:
        """The bound that 95 % of latencies stay within, 1,000 s at most; None without any."""
        return quantile_bound(self.latency_counts, 0.95)

    def to_json(self) -> dict[str, Any]:
        """The sums; latencies as pairs of bucket and count."""
        latencies = [[place, count] for place, count in enumerate(self.latency_counts) if count]
        names = ("requests", "priced", "cost_usd", "cost_squares", "failed", "refused")
        return {name: getattr(self, name) for name in names} | {"latencies": latencies}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ArmTotals":
        """What ``to_json`` gave."""
        sums = {name: value for name, value in data.items() if name != "latencies"}
        totals = cls(**sums)
        for place, count in data["latencies"]:
            totals.latency_counts[place] = count
        return totals


def quantile_bound(counts: Sequence[int], share: float) -> float | None:
    """The upper bound (ms) of the bucket in which ``share`` of the latencies is reached; None of an empty histogram.
    The last bucket has none: what is reached there is told as the highest bound there is, as JSON has no infinity."""
    total, seen = sum(counts), 0
    if not total:
        return None
    for bound, count in zip((*LATENCY_BOUNDS_MS, LATENCY_BOUNDS_MS[-1]), counts, strict=True):
        seen += count
        if seen >= share * total:
            return bound
    raise AssertionError("all latencies together are all latencies")
