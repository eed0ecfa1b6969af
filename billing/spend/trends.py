"""How spend goes: against the period before, towards the end of this one, and against what is usual."""

import statistics
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from django.db import connection

from billing.rollups import HOUR, floor_hour
from billing.spend.dimensions import Figures, Interval
from billing.spend.ranges import Span, back, calendar_period, ceil_hour
from billing.spend.sums import Filters, sums_of_spans
from billing.windows import Window
from tenants.models import Tenant

RATE_OVER: Final = timedelta(days=7)
USUAL_OVER_DAYS: Final = 28
FEWEST_DAYS: Final = 7
SPREADS: Final = Decimal("3.5")
LEAST_EXCESS: Final = Decimal("0.5")  # of what is usual
LEAST_USD: Final = Decimal("0.01")
_MAD_TO_DEVIATION: Final = Decimal("1.4826")  # of normally distributed values

_THIS, _BEFORE_SO_FAR, _BEFORE_WHOLE, _RATE = range(4)


@dataclass(frozen=True, slots=True)
class Trend:
    """A running period. ``before_so_far`` is the previous one after as much time as has passed of this one.

    ``projected_usd`` is what was spent plus what the remaining hours cost at the mean hourly rate of the last seven
    days, which have every day of the week and every hour of the day in them.
    """

    starts_at: datetime
    ends_at: datetime
    now: datetime
    so_far: Figures
    before_so_far: Figures
    before_whole: Figures
    projected_usd: Decimal

    @property
    def delta_usd(self) -> Decimal:
        return self.so_far.spend_usd - self.before_so_far.spend_usd

    @property
    def delta_ratio(self) -> Decimal | None:
        """1 is twice as much as before; None where nothing was spent before."""
        before = self.before_so_far.spend_usd
        return self.delta_usd / before if before else None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Spend of a few hours against the same hours of the day on each of the 28 days before.

    ``usual_usd`` is their median, and ``limit_usd`` lies above it by the greatest of 3.5 deviations (1.4826 times the
    median absolute deviation, so that single odd days do not move it), half of the median, and a cent. Days before the
    first line count for nothing; with fewer than seven of the others there is no telling, and no anomaly.
    """

    since: datetime
    until: datetime
    spent_usd: Decimal
    usual_usd: Decimal | None
    limit_usd: Decimal | None
    days: int

    @property
    def is_anomalous(self) -> bool:
        return self.limit_usd is not None and self.spent_usd > self.limit_usd


def trend(
    tenant: Tenant, period: Interval = "month", *, where: Filters | None = None, now: datetime | None = None
) -> Trend:
    """Of the period (by the tenant's calendar) that ``now`` is in."""
    now = now or datetime.now(UTC)
    window = Window(kind=period, time_zone=tenant.time_zone)
    start, end = calendar_period(window, now)
    previous_start, _ = calendar_period(window, start - timedelta(microseconds=1))
    same_time = min(previous_start + (now - start), start)
    spans = [
        Span(_THIS, ceil_hour(start), ceil_hour(now)),
        Span(_BEFORE_SO_FAR, ceil_hour(previous_start), ceil_hour(same_time)),
        Span(_BEFORE_WHOLE, ceil_hour(previous_start), ceil_hour(start)),
        Span(_RATE, floor_hour(now - RATE_OVER), floor_hour(now)),
    ]
    found = sums_of_spans(spans, _of(tenant, where), now)
    hours_left = Decimal((end - now) // timedelta(seconds=1)) / 3600
    hours_seen = max(1, _hours_since_first_line(tenant, now, RATE_OVER))
    rate = found[_RATE].spend_usd / hours_seen
    return Trend(
        starts_at=start,
        ends_at=end,
        now=now,
        so_far=found[_THIS],
        before_so_far=found[_BEFORE_SO_FAR],
        before_whole=found[_BEFORE_WHOLE],
        projected_usd=found[_THIS].spend_usd + (rate * hours_left).quantize(Decimal("1e-12")),
    )


def anomaly(
    tenant: Tenant, hours: int = 1, *, where: Filters | None = None, now: datetime | None = None, running: bool = False
) -> Anomaly:
    """Whether the last ``hours`` whole hours cost unusually much. With ``running`` the last of them is the hour that
    ``now`` is in: what runs away is seen within it."""
    until = floor_hour(now or datetime.now(UTC)) + (HOUR if running else timedelta(0))
    zone = ZoneInfo(tenant.time_zone)
    days = min(USUAL_OVER_DAYS, _hours_since_first_line(tenant, until, timedelta(days=USUAL_OVER_DAYS)) // 24)
    ends = [floor_hour(back(until, day, zone)) for day in range(days + 1)]
    spans = [Span(day, end - hours * HOUR, end) for day, end in enumerate(ends)]
    found = sums_of_spans(spans, _of(tenant, where), now)
    spent = found[0].spend_usd
    if days < FEWEST_DAYS:
        return Anomaly(spans[0].since, until, spent, None, None, days)
    before = [found[day].spend_usd for day in range(1, days + 1)]
    usual = statistics.median(before)
    deviation = _MAD_TO_DEVIATION * statistics.median(abs(value - usual) for value in before)
    limit = usual + max(SPREADS * deviation, LEAST_EXCESS * usual, LEAST_USD)
    return Anomaly(spans[0].since, until, spent, usual, limit, days)


def _of(tenant: Tenant, where: Filters | None) -> Filters:
    return {**(where or {}), "tenant": (tenant.pk,)}


def _hours_since_first_line(tenant: Tenant, until: datetime, within: timedelta) -> int:
    """How many whole hours before ``until`` the tenant has had lines for, at most those ``within``."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT min(hour) FROM billing_usagehour WHERE tenant_id = %s AND hour >= %s AND hour < %s",
            [tenant.pk, floor_hour(until - within), until],
        )
        (first,) = cursor.fetchone()
    return (floor_hour(until) - first) // HOUR if first else 0
