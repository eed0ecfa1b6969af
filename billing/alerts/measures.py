"""What rules look at: one reading of a condition, and what people are told of it.

Requests are read from the request log and prices from the ledger, by ranges of their time-ordered keys, so that only
the window's rows are touched; spend is what :mod:`billing.spend` says.
"""

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.apps import apps
from django.db import connection
from django.db.models import Min

from billing.models import AlertRule, UsageHour
from billing.rollups import HOUR, floor_hour
from billing.spend import Dimension, Filters, Value, trends
from billing.spend.ranges import Span
from billing.spend.sums import sums_of_spans
from gateway.rows import first_id

DEFAULT_THRESHOLDS: Final = {
    AlertRule.Kind.SPEND_ANOMALY: Decimal("3.5"),  # deviations, as billing.spend has it
    AlertRule.Kind.ERROR_RATE: Decimal(5),  # per cent
    AlertRule.Kind.LATENCY_P95: Decimal(30_000),  # ms
    AlertRule.Kind.NO_TRAFFIC: Decimal(0),  # requests
    AlertRule.Kind.PRICE_UNKNOWN: Decimal(0),  # calls
}
_DEVIATION_OF_MAD: Final = Decimal("1.4826")  # what the median deviation is of a normal distribution's standard one
_NAMED_MODELS: Final = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a condition.

    ``about`` tells apart what one rule watches at once (a circuit's id; "" where it is a single thing). ``over``: the
    condition holds. ``telling``: it rests on enough to open an alert; an open one ends as soon as it no longer holds.
    """

    over: bool
    message: str = ""
    about: str = ""
    telling: bool = True
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrippedCircuit:
    """A deployment of a model that is not called at the moment, or only tried (open or half open)."""

    id: UUID
    tenant_id: UUID | None
    model: str
    provider: str
    since: datetime | None


TrippedCircuits = Callable[[], Sequence[TrippedCircuit] | None]
"""All of the installation; None when they cannot be asked."""


def measure(rule: AlertRule, now: datetime) -> list[Reading]:
    """What ``rule`` (of a kind other than budget and breaker_open) sees in the window before ``now``."""
    threshold = rule.threshold if rule.threshold is not None else DEFAULT_THRESHOLDS[AlertRule.Kind(rule.kind)]
    return [_MEASURES[AlertRule.Kind(rule.kind)](rule, threshold, now)]


def tripped(rule: AlertRule, circuits: Sequence[TrippedCircuit]) -> list[Reading]:
    """A reading of each circuit that the rule watches; a tenant's rule watches that tenant's own models."""
    return [
        Reading(
            over=True,
            about=str(circuit.id),
            message=f"The circuit breaker of model {circuit.model} at provider {circuit.provider} is open.",
            facts={
                "model": circuit.model,
                "provider": circuit.provider,
                "since": circuit.since.isoformat() if circuit.since else None,
            },
        )
        for circuit in circuits
        if rule.tenant_id in (None, circuit.tenant_id) and rule.model_name in ("", circuit.model)
    ]


# --------------------------------------------------------------------------- answers

# Found by the router's labels and by replays of banked conversations.
_CHANGED: Final = """
SELECT w.id, w.model_name, w.reason, w.alarmed_at FROM routing_driftwatch w
WHERE w.alarmed_at > %(after)s AND (%(tenant)s::uuid IS NULL OR w.tenant_id = %(tenant)s::uuid)
  AND (%(model)s = '' OR w.model_name = %(model)s)
ORDER BY w.alarmed_at
"""


def changed(rule: AlertRule, now: datetime) -> list[Reading]:
    """A reading of each model whose answers were found to have changed within the rule's window."""
    with connection.cursor() as cursor:
        scope = {"tenant": rule.tenant_id, "model": rule.model_name, "after": now - _span(rule)}
        cursor.execute(_CHANGED, scope)
        rows = cursor.fetchall()
    return [
        Reading(
            over=True,
            about=str(watch_id),
            message=f"The answers of model {model} have changed: {reason}",
            facts={"model": model, "since": alarmed_at.isoformat()},
        )
        for watch_id, model, reason, alarmed_at in rows
    ]


# --------------------------------------------------------------------------- requests

_REQUESTS: Final = """
SELECT count(*), count(*) FILTER (WHERE status >= 500) FROM gateway_requestlog WHERE {scope}
"""
_LATENCY: Final = """
SELECT count(*), percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) FROM gateway_requestlog
WHERE {scope} AND status < 400
"""
# A request that nobody answered has no model but the one that was asked for.
_REQUEST_SCOPE: Final = """
  id >= %(since)s AND id < %(until)s
  AND (%(tenant)s::uuid IS NULL OR tenant_id = %(tenant)s::uuid)
  AND (%(project)s::uuid IS NULL OR project_id = %(project)s::uuid)
  AND (%(model)s = '' OR model_name = %(model)s OR model_name = '' AND requested_model = %(model)s)
"""


def _error_rate(rule: AlertRule, threshold: Decimal, now: datetime) -> Reading:
    ((requests, failed),) = _rows(_REQUESTS.format(scope=_REQUEST_SCOPE), rule, now)
    percent = Decimal(failed * 100) / requests if requests else Decimal(0)
    return Reading(
        over=percent > threshold,
        telling=requests >= rule.least_requests,
        message=f"{_plain(percent)} % of {requests} requests{_scope(rule)} failed {_window(rule)} "
        f"(threshold: {_plain(threshold)} %).",
        facts={"percent": _plain(percent), "requests": requests, "failed": failed, "threshold": _plain(threshold)},
    )


def _latency_p95(rule: AlertRule, threshold: Decimal, now: datetime) -> Reading:
    ((requests, p95_ms),) = _rows(_LATENCY.format(scope=_REQUEST_SCOPE), rule, now)
    measured = round(p95_ms or 0)
    return Reading(
        over=measured > threshold,
        telling=requests >= rule.least_requests,
        message=f"5 % of {requests} answered requests{_scope(rule)} took {measured} ms or longer {_window(rule)} "
        f"(threshold: {_plain(threshold)} ms).",
        facts={"p95_ms": measured, "requests": requests, "threshold": _plain(threshold)},
    )


def _no_traffic(rule: AlertRule, threshold: Decimal, now: datetime) -> Reading:
    ((requests, _),) = _rows(_REQUESTS.format(scope=_REQUEST_SCOPE), rule, now)
    return Reading(
        over=requests <= threshold,
        telling=rule.created_at <= now - _span(rule),  # a new rule has not yet waited for its window
        message=f"{requests or 'No'} requests{_scope(rule)} came {_window(rule)}.",
        facts={"requests": requests, "threshold": _plain(threshold)},
    )


# --------------------------------------------------------------------------- money

# By the attempt's start: its settlement shares the key. What failed and used nothing needs no price; nor does what was
# priced afterwards.
_UNPRICED: Final = """
SELECT a.vendor_model, count(*) FROM billing_settlement s JOIN billing_attempt a ON a.id = s.attempt_id
LEFT JOIN gateway_model m ON m.id = a.model_id
WHERE s.attempt_id >= %(since)s AND s.attempt_id < %(until)s AND a.id >= %(since)s AND a.id < %(until)s
  AND s.cost_usd IS NULL AND (s.outcome = 'settled' OR s.input_tokens > 0)
  AND NOT EXISTS (SELECT FROM billing_adjustment d WHERE d.attempt_id = s.attempt_id)
  AND (%(tenant)s::uuid IS NULL OR s.tenant_id = %(tenant)s::uuid)
  AND (%(project)s::uuid IS NULL OR a.project_id = %(project)s::uuid)
  AND (%(model)s = '' OR m.name = %(model)s)
GROUP BY a.vendor_model ORDER BY count(*) DESC, a.vendor_model
"""


def _price_unknown(rule: AlertRule, threshold: Decimal, now: datetime) -> Reading:
    found = _rows(_UNPRICED, rule, now)
    calls = sum(count for _, count in found)
    models = [vendor_model for vendor_model, _ in found[:_NAMED_MODELS]]
    return Reading(
        over=calls > threshold,
        message=f"{calls} calls{_scope(rule)} have no known price {_window(rule)}: {', '.join(models)}.",
        facts={"calls": calls, "vendor_models": models, "threshold": _plain(threshold)},
    )


def _spend_anomaly(rule: AlertRule, threshold: Decimal, now: datetime) -> Reading:
    """The window against the same hours of other days, as :func:`billing.spend.anomaly` judges a tenant.

    The window is the running hour and as many before it as make up ``window_minutes``: what runs away is told within
    the hour. ``threshold`` is in deviations.
    """
    where = _spend_of(rule)
    hours, until = -(-rule.window_minutes // 60), floor_hour(now) + HOUR
    spans = [
        Span(day, until - timedelta(days=day, hours=hours), until - timedelta(days=day)) for day in _days(until, where)
    ]
    found = sums_of_spans([Span(0, until - timedelta(hours=hours), until), *spans], where, now)
    current = found[0]
    usual, bound = usual_and_bound([found[span.label].spend_usd for span in spans], threshold)
    return Reading(
        over=bool(spans) and current.spend_usd > bound,
        telling=len(spans) >= trends.FEWEST_DAYS and current.requests >= rule.least_requests,
        message=f"{current.spend_usd:,.2f} USD were spent{_scope(rule)} {_window(rule)}; usual at this time of day are "
        f"{usual:,.2f}, and up to {bound:,.2f} are not unusual.",
        facts={
            "spent_usd": f"{current.spend_usd:f}",
            "usual_usd": f"{usual:f}",
            "bound_usd": f"{bound:f}",
            "days": len(spans),
            "threshold": _plain(threshold),
        },
    )


def usual_and_bound(baseline: Sequence[Decimal], deviations: Decimal) -> tuple[Decimal, Decimal]:
    """The median, and what is no longer usual above it: both robust against a few wild days. USD in, USD out."""
    if not baseline:
        return Decimal(0), Decimal(0)
    usual = statistics.median(baseline)
    deviation = _DEVIATION_OF_MAD * statistics.median(abs(value - usual) for value in baseline)
    return usual, usual + max(deviations * deviation, trends.LEAST_EXCESS * usual, trends.LEAST_USD)


def _spend_of(rule: AlertRule) -> Filters:
    where: dict[Dimension, Collection[Value]] = {}
    if rule.tenant_id is not None:
        where["tenant"] = (rule.tenant_id,)
    if rule.project_id is not None:
        where["project"] = (rule.project_id,)
    if rule.model_name:
        models = apps.get_model("gateway", "Model")._default_manager.filter(name=rule.model_name)
        where["model"] = tuple(models.values_list("pk", flat=True)) or (None,)
    return where


def _days(until: datetime, where: Filters) -> range:
    """How many days back there is something to compare with: not before anything was spent at all."""
    columns = {f"{dimension}_id__in": values for dimension, values in where.items()}
    since = until - timedelta(days=trends.USUAL_OVER_DAYS + 1)
    first = UsageHour.objects.filter(hour__gte=since, **columns).aggregate(first=Min("hour"))["first"]
    return range(1, min((until - HOUR - first).days, trends.USUAL_OVER_DAYS) + 1) if first else range(0)


_MEASURES: Final = {
    AlertRule.Kind.ERROR_RATE: _error_rate,
    AlertRule.Kind.LATENCY_P95: _latency_p95,
    AlertRule.Kind.NO_TRAFFIC: _no_traffic,
    AlertRule.Kind.PRICE_UNKNOWN: _price_unknown,
    AlertRule.Kind.SPEND_ANOMALY: _spend_anomaly,
}


def _rows(query: str, rule: AlertRule, now: datetime) -> list[tuple[Any, ...]]:
    scope = {"tenant": rule.tenant_id, "project": rule.project_id, "model": rule.model_name}
    keys = {"since": first_id(now - _span(rule)), "until": first_id(now)}
    with connection.cursor() as cursor:
        cursor.execute(query, {**scope, **keys})
        return list(cursor.fetchall())


def _span(rule: AlertRule) -> timedelta:
    return timedelta(minutes=rule.window_minutes)


def _scope(rule: AlertRule) -> str:
    return "".join(
        (
            f" of project {rule.project.slug}" if rule.project else "",
            f" to {rule.model_name}" if rule.model_name else "",
        )
    )


def _window(rule: AlertRule) -> str:
    return f"within {rule.window_minutes} minutes"


def _plain(number: Decimal) -> str:
    """Two digits at most, and none that say nothing."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
