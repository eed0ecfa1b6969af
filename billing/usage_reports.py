"""What each tenant used, by the UTC day, out of the ledger.

A report is made again whenever lines of its day come. Two days after its day it is closed: from then on it counts for
Stripe (:mod:`billing.meter_events`). Lines that come later still, such as a correction of prices, change it as well,
and Stripe is told the difference.

A day is closed only when the roll-ups have got as far, since :mod:`billing.spend` reads older days from them.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from billing.meter_events import tell_stripe
from billing.models import MeterValue, RollupMark, Subscription, UsageReport
from billing.spend import Figures, spend_of_all
from gateway.rows import first_id, moment_of

CLOSED_AFTER: Final = timedelta(days=2)
LATE_LINES_SEEN_FOR: Final = timedelta(days=40)
"""For how long every run looks at the days of lines that came late: a job that stood still catches up."""

_DAY: Final = timedelta(days=1)
_FIGURES: Final = ("requests", "tokens", "spend_usd", "unpriced")
_WRITTEN: Final = (
    *_FIGURES, "month_requests", "month_tokens", "month_spend_usd", "included_requests", "included_tokens",
    "overage_requests", "overage_tokens", "stripe_customer", "meter_value", "closed_at", "revised_at",
)  # fmt: skip


@dataclass(slots=True)
class _Month:
    """What a tenant used in a month so far."""

    requests: int = 0
    tokens: int = 0
    spend_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class _Run:
    now: datetime
    closed_before: datetime
    subscriptions: dict[UUID, Subscription]
    meter_value: str


def usage_report(now: datetime | None = None, since: date | None = None) -> dict[str, Any]:
    """Bring the reports up to ``now`` and tell Stripe what is closed, where a key is set.

    Looks at this month and the one before, at what lines came late for, and from ``since`` on where that is earlier.
    For the job's record: ``reports`` (made or changed), ``closed`` (days of tenants), and what
    :func:`billing.meter_events.tell_stripe` counts. Raises ImproperlyConfigured.
    """
    now = (now or timezone.now()).astimezone(UTC)
    run = _run(now)
    changed = closed = 0
    for month in _months(min(since or now.date(), _earliest(now)), now.date()):
        changed_here, closed_here = _report_month(month, run)
        changed, closed = changed + changed_here, closed + closed_here
    return {"reports": changed, "closed": closed, **tell_stripe(now)}


def _run(now: datetime) -> _Run:
    if settings.STRIPE_METER_VALUE not in MeterValue.values:
        raise ImproperlyConfigured(f"STRIPE_METER_VALUE is one of {', '.join(MeterValue.values)}.")
    mark = RollupMark.objects.first()
    seen_to = min(now, mark.rolled_up_to) if mark else datetime.min.replace(tzinfo=UTC) + CLOSED_AFTER
    subscriptions = {agreed.tenant_id: agreed for agreed in Subscription.objects.select_related("plan")}
    return _Run(now, seen_to - CLOSED_AFTER, subscriptions, settings.STRIPE_METER_VALUE)


def _earliest(now: datetime) -> date:
    """The first day anything may have changed for."""
    last_month = (now.date().replace(day=1) - _DAY).replace(day=1)
    open_day = UsageReport.objects.filter(closed_at=None).order_by("day").values_list("day", flat=True).first()
    bound, came_since = first_id(_start(last_month)), now - LATE_LINES_SEEN_FOR
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT least(
              (SELECT min(attempt_id::text) FROM billing_adjustment WHERE created_at >= %s AND attempt_id < %s),
              (SELECT min(attempt_id::text) FROM billing_settlement WHERE settled_at >= %s AND attempt_id < %s))
            """,
            [came_since, bound, came_since, bound],
        )
        (late,) = cursor.fetchone()
    # A key is made just before its line's started_at, which may be the next day's.
    late_day = moment_of(UUID(late)).date() if late else last_month
    return min(last_month, open_day or last_month, late_day)


def _months(first: date, last: date) -> Iterable[list[date]]:
    """The days of each month, up to ``last``."""
    day = first.replace(day=1)
    while day <= last:
        month = [day]
        while (next_day := month[-1] + _DAY).month == day.month and next_day <= last:
            month.append(next_day)
        yield month
        day = month[-1] + _DAY


@transaction.atomic
def _report_month(days: list[date], run: _Run) -> tuple[int, int]:
    """One worker at a time: what a month includes is used up day by day."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('pointsman usage reports', 0))")
    so_far: dict[UUID, _Month] = defaultdict(_Month)
    changed = closed = 0
    for day in days:
        stored = {report.tenant_id: report for report in UsageReport.objects.filter(day=day)}
        fresh: list[UsageReport] = []
        different: list[UsageReport] = []
        for tenant_id, figures in _figures(day, run.now).items():
            report = stored.get(tenant_id) or UsageReport(tenant_id=tenant_id, day=day)
            before = _values(report)
            was_open = report.closed_at is None
            _fill(report, figures, so_far[tenant_id], run)
            if report._state.adding:
                fresh.append(report)
            elif _values(report) != before:
                different.append(report)
            closed += was_open and report.closed_at is not None
        UsageReport.objects.bulk_create(fresh)
        _update(different)
        changed += len(fresh) + len(different)
    return changed, closed


def _update(reports: list[UsageReport]) -> None:
    for report in reports:
        report.updated_at = timezone.now()
    UsageReport.objects.bulk_update(reports, [*_WRITTEN, "updated_at"], batch_size=200)


def _figures(day: date, now: datetime) -> dict[UUID, Figures]:
    """By tenant. What the installation spent on its own account is nobody's."""
    spend = spend_of_all(_start(day), _start(day + _DAY), by=("tenant",), now=now)
    return {row.key[0]: row.figures for row in spend.rows if isinstance(row.key[0], UUID)}


def _fill(report: UsageReport, figures: Figures, month: _Month, run: _Run) -> None:
    """Put a day's figures in, and add them to its month's."""
    ends = _start(report.day + _DAY)
    if report._state.adding or run.now < ends:
        _agree(report, run)
    before = [getattr(report, name) for name in _FIGURES]
    for name in _FIGURES:
        setattr(report, name, getattr(figures, name))
    if report.closed_at is not None and before != [getattr(report, name) for name in _FIGURES]:
        report.revised_at = run.now
    if report.closed_at is None and ends <= run.closed_before:
        report.closed_at = run.now
    month.requests += report.requests
    month.tokens += report.tokens
    month.spend_usd += report.spend_usd
    report.month_requests, report.month_tokens = month.requests, month.tokens
    report.month_spend_usd = month.spend_usd
    report.overage_requests = _beyond(report.requests, month.requests, report.included_requests)
    report.overage_tokens = _beyond(report.tokens, month.tokens, report.included_tokens)


def _agree(report: UsageReport, run: _Run) -> None:
    """What holds for this day is what the tenant's plan says while it lasts."""
    agreed = run.subscriptions.get(report.tenant_id)
    terms = agreed.terms() if agreed else {}
    has_overage = bool(terms.get("overage"))
    report.included_requests = terms["monthly_requests"] if has_overage else None
    report.included_tokens = terms["monthly_tokens"] if has_overage else None
    begun = agreed is not None and agreed.stripe_from is not None and agreed.stripe_from <= report.day
    report.stripe_customer = agreed.stripe_customer if agreed is not None and begun else ""
    report.meter_value = run.meter_value if report.stripe_customer else ""


def _beyond(of_the_day: int, of_the_month: int, included: int | None) -> int:
    """How much of a day was used after the month's share was."""
    return 0 if included is None else min(of_the_day, max(0, of_the_month - included))


def _values(report: UsageReport) -> list[Any]:
    return [getattr(report, name) for name in _WRITTEN]


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
