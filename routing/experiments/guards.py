"""Metrics that must not get worse while something is tried out, however good the answers are.

A breach is declared only when it is certain, at every look, but for one chance in a hundred: a guard does not stop a
test for the noise of twenty requests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from routing.experiments.totals import LATENCY_BOUNDS_MS, ArmTotals

GUARD_ALPHA = 0.01
LEAST_REQUESTS = 100
SLOWEST_SHARE = 0.05  # what is slower than the 95th percentile

_TUNED_TO = 100  # requests at which the bound on a mean begins to be tight
_SLOW_PRIOR = (1.0, 19.0)  # a beta distribution of the slowest share, with its mean


class Metric(StrEnum):
    """Absolute limits are in USD per 1,000 requests (cost), milliseconds (p95) or shares of requests (the others)."""

    COST = "cost"
    P95 = "p95"
    ERRORS = "errors"
    REFUSALS = "refusals"


@dataclass(frozen=True, slots=True)
class Guard:
    """How much worse than the control a metric may be: ``worst_relative`` .2 allows 20 % more, ``worst_absolute`` so
    many of its units more. Raises ValueError unless exactly one is given, not below 0, and for an unknown metric."""

    metric: Metric
    worst_relative: float | None = None
    worst_absolute: float | None = None
    least_requests: int = LEAST_REQUESTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", Metric(self.metric))
        limits = [limit for limit in (self.worst_relative, self.worst_absolute) if limit is not None]
        if len(limits) != 1 or limits[0] < 0:
            raise ValueError(f"the guard on {self.metric} needs one of worst_relative and worst_absolute, 0 or more")
        if self.least_requests < 1:
            raise ValueError(f"the guard on {self.metric} needs at least one request")

    def allowed(self, control: float) -> float:
        """The worst value there may be beside the control's."""
        return control * (1.0 + (self.worst_relative or 0.0)) + (self.worst_absolute or 0.0)


@dataclass(frozen=True, slots=True)
class Breach:
    """A guard that does not hold. ``value`` and ``control`` are in the metric's units."""

    metric: Metric
    value: float
    control: float
    told: str


STANDARD_GUARDS = (
    Guard(Metric.ERRORS, worst_absolute=0.03),
    Guard(Metric.REFUSALS, worst_absolute=0.05),
    Guard(Metric.P95, worst_relative=1.0),
)
"""Of an experiment that names none: cost is then a thing to weigh, not to stop for."""


def breaches(guards: Sequence[Guard], control: ArmTotals, tested: ArmTotals) -> list[Breach]:
    """The guards that the tested arm certainly breaks."""
    found = (_breach(guard, control, tested) for guard in guards)
    return [breach for breach in found if breach is not None]


def _breach(guard: Guard, control: ArmTotals, tested: ArmTotals) -> Breach | None:
    if guard.metric is Metric.P95:
        return _slowness(guard, control, tested)
    here, there = _mean(guard.metric, tested), _mean(guard.metric, control)
    if min(here.count, there.count) < guard.least_requests:
        return None
    factor = 1.0 + (guard.worst_relative or 0.0)
    variance = here.variance / here.count + factor**2 * there.variance / there.count
    excess = here.mean - guard.allowed(there.mean)
    if excess <= _radius(variance, min(here.count, there.count)):
        return None
    return _told(guard, here.mean, there.mean)


@dataclass(frozen=True, slots=True)
class _Mean:
    count: int
    mean: float
    variance: float


def _mean(metric: Metric, totals: ArmTotals) -> _Mean:
    if metric is Metric.COST:
        count = totals.priced
        mean = totals.cost_usd / max(count, 1)
        variance = max(totals.cost_squares / max(count, 1) - mean**2, 0.0)
        return _Mean(count, 1e3 * mean, 1e6 * variance)
    events = totals.failed if metric is Metric.ERRORS else totals.refused
    share = (events + 1) / (totals.requests + 2)  # a share of 0 is not certain to be 0
    return _Mean(totals.requests, events / max(totals.requests, 1), share * (1 - share))


def _radius(variance: float, count: int) -> float:
    """How far a mean may be off at any look (normal mixture, tuned to a hundred requests)."""
    told = count / _TUNED_TO
    return math.sqrt(variance * (1 + 1 / told) * (math.log1p(told) - 2 * math.log(GUARD_ALPHA)))


def _slowness(guard: Guard, control: ArmTotals, tested: ArmTotals) -> Breach | None:
    """The 95th percentile is certainly beyond what it may be: its lowest value against the control's highest."""
    if min(sum(control.latency_counts), sum(tested.latency_counts)) < guard.least_requests:
        return None
    at_least = _p95_bounds(tested.latency_counts)[0]
    at_most = _p95_bounds(control.latency_counts)[1]
    if at_least <= guard.allowed(at_most):
        return None
    return _told(guard, tested.p95_ms() or 0.0, control.p95_ms() or 0.0)


def _p95_bounds(counts: Sequence[int]) -> tuple[float, float]:
    """Between which bounds (ms) the 95th percentile lies, at any look."""
    total, low, high = sum(counts), 0.0, math.inf
    for bound, within in zip(LATENCY_BOUNDS_MS, accumulate(counts), strict=False):
        if not _is_not_the_slowest_share(total - within, total):
            continue
        if total - within > SLOWEST_SHARE * total:
            low = bound
        else:
            high = min(high, bound)
    return low, high


def _is_not_the_slowest_share(slower: int, total: int) -> bool:
    """Whether so many of all being slower than a bound rules out that it is the 95th percentile (beta mixture)."""
    first, second = _SLOW_PRIOR
    evidence = _log_beta(first + slower, second + total - slower) - _log_beta(first, second)
    evidence -= slower * math.log(SLOWEST_SHARE) + (total - slower) * math.log1p(-SLOWEST_SHARE)
    return evidence >= math.log(2 / GUARD_ALPHA)


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)


def _told(guard: Guard, value: float, control: float) -> Breach:
    if guard.worst_relative is not None:
        limit = f"at most {guard.worst_relative:.0%} more is allowed"
    else:
        limit = f"at most {_shown(guard.metric, guard.worst_absolute or 0.0)} more is allowed"
    name = {
        "cost": "cost",
        "p95": "95th percentile of latency",
        "errors": "error rate",
        "refusals": "share of refusals",
    }
    shown, usual = _shown(guard.metric, value), _shown(guard.metric, control)
    return Breach(guard.metric, value, control, f"{name[guard.metric]} is {shown} against {usual}; {limit}")


def _shown(metric: Metric, value: float) -> str:
    if metric is Metric.COST:
        return f"{value:.4g} USD per 1,000 requests"
    return f"{value:,.0f} ms" if metric is Metric.P95 else f"{value:.1%}"
