"""Thresholds of budgets: told once when passed, over when the period is or when the cap was raised.

Use is what was spent, in per cent of the cap; holds do not count. A rolling window is the sum of its slices, told of at
most once per threshold while the slice that carried it is in the window.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from billing.alerts.book import channels_of, default_channels, highest_for_each_channel, open_alert, resolve_alert
from billing.models import Alert, AlertChannel, AlertRule, Budget, BudgetPeriod
from billing.windows import Window, span_in_words

# A rolling window is one group, every other period one of its own. Late settlements still count for a day. A window's
# alert stays open while the window is full, also when the slice that carried it has left: it is not opened again.
_PASSED: Final = """
WITH used AS (
  SELECT b.id AS budget_id, b.period, b.cap, p.subject, (array_agg(p.id ORDER BY p.starts_at DESC))[1] AS period_id,
    min(p.starts_at) AS starts_at, max(p.ends_at) AS ends_at, sum(p.spent) AS spent, max(p.alerted) AS alerted,
    min(p.ends_at) FILTER (WHERE p.spent + p.held > 0) AS oldest_ends_at
  FROM billing_budget b JOIN billing_budgetperiod p ON p.budget_id = b.id
  WHERE b.enabled AND p.starts_at <= %(now)s AND (p.ends_at IS NULL OR p.ends_at > %(now)s -
      CASE b.period WHEN 'rolling' THEN make_interval(secs => b.rolling_s) ELSE interval '1 day' END)
    AND (%(budget)s::uuid IS NULL OR b.id = %(budget)s::uuid AND p.subject = %(subject)s
      AND (b.period = 'rolling' OR p.id = %(period)s::uuid))
  GROUP BY b.id, p.subject, CASE WHEN b.period <> 'rolling' THEN p.id END
), thresholds AS (
  SELECT id AS budget_id, unnest(thresholds)::integer AS threshold FROM billing_budget
  UNION
  SELECT b.id, ceil(r.threshold)::integer FROM billing_alertrule r
  JOIN billing_budget b ON b.id = r.budget_id AND b.tenant_id IS NOT DISTINCT FROM r.tenant_id
  WHERE r.kind = 'budget' AND r.enabled AND r.threshold BETWEEN 1 AND 1000
)
SELECT u.budget_id, u.subject, u.period_id, u.starts_at, u.ends_at, u.oldest_ends_at, u.spent,
  array_agg(t.threshold ORDER BY t.threshold)
FROM used u JOIN thresholds t ON t.budget_id = u.budget_id
WHERE u.spent > 0 AND t.threshold > u.alerted AND u.spent * 100 >= u.cap * t.threshold
  AND NOT (u.period = 'rolling' AND EXISTS (
    SELECT FROM billing_alert a JOIN billing_budgetperiod s ON s.id = a.budget_period_id
    WHERE s.budget_id = u.budget_id AND s.subject = u.subject AND a.resolved_at IS NULL
      AND (a.facts->>'threshold')::integer = t.threshold))
GROUP BY u.budget_id, u.subject, u.period_id, u.starts_at, u.ends_at, u.oldest_ends_at, u.spent
"""
# A rolling window falls below a threshold by itself and rises again: its slice's departure or another cap ends it.
_OVER: Final = """
SELECT a.id, b.id FROM billing_alert a
LEFT JOIN billing_budgetperiod p ON p.id = a.budget_period_id
LEFT JOIN billing_budget b ON b.id = p.budget_id
LEFT JOIN LATERAL (
  SELECT coalesce(sum(s.spent), 0) AS spent FROM billing_budgetperiod s
  WHERE s.budget_id = b.id AND s.subject = p.subject AND s.starts_at <= %(now)s AND (
    b.period <> 'rolling' AND s.id = p.id
    OR b.period = 'rolling' AND s.ends_at > %(now)s - make_interval(secs => b.rolling_s))
) used ON true
WHERE a.kind = 'budget' AND a.resolved_at IS NULL AND (%(alert)s::uuid IS NULL OR a.id = %(alert)s::uuid) AND (
  p.id IS NULL OR NOT b.enabled
  OR b.period <> 'rolling' AND p.ends_at <= %(now)s
  OR used.spent * 100 < b.cap * (a.facts->>'threshold')::integer AND (b.period <> 'rolling'
    OR p.ends_at <= %(now)s - make_interval(secs => b.rolling_s) OR b.cap <> (a.facts->>'cap')::numeric))
"""
# After its cap was raised a period may pass the same threshold once more.
_FORGET: Final = """
WITH used AS (
  SELECT b.id AS budget_id, b.period, b.cap, p.id AS period_id, p.subject, sum(s.spent) AS spent
  FROM billing_alert a JOIN billing_budgetperiod p ON p.id = a.budget_period_id
  JOIN billing_budget b ON b.id = p.budget_id AND b.cap > (a.facts->>'cap')::numeric
  JOIN billing_budgetperiod s ON s.budget_id = b.id AND s.subject = p.subject AND s.starts_at <= %(now)s AND (
    b.period <> 'rolling' AND s.id = p.id
    OR b.period = 'rolling' AND s.ends_at > %(now)s - make_interval(secs => b.rolling_s))
  WHERE a.id = %(alert)s
  GROUP BY b.id, p.id
)
UPDATE billing_budgetperiod s SET alerted = floor(u.spent * 100 / u.cap)
FROM used u
WHERE s.budget_id = u.budget_id AND s.subject = u.subject AND (u.period = 'rolling' OR s.id = u.period_id)
  AND u.spent * 100 < u.cap * s.alerted
"""
_CENTS, _TELLING, _MOST_PLACES = 2, 3, 12  # decimals of USD; _TELLING: beyond a cap's first digit
_ALL: Final[Mapping[str, None]] = {"budget": None, "subject": None, "period": None}


@dataclass(frozen=True, slots=True)
class Passed:
    """The thresholds (upwards, per cent) that one period, or one rolling window, has passed and not been told of.

    ``spent`` is in the budget's metric; ``period_id`` is the newest slice's where a window has several. A window's
    slices are what the other times are of: ``oldest_ends_at`` is the end of the first that something was used in.
    """

    budget_id: UUID
    subject: str
    period_id: UUID
    starts_at: datetime
    ends_at: datetime | None
    oldest_ends_at: datetime | None
    spent: Decimal
    thresholds: list[int]


def raise_budget_alerts(now: datetime) -> dict[str, int]:
    """Resolve what is over and open what was passed. Returns how many of each, and how many messages were queued."""
    resolved = sum(_resolve(alert_id, budget_id, now) for alert_id, budget_id in _over(now))
    told = [_raise(passed, now) for passed in _passed(now)]
    return {
        "opened": sum(opened for opened, _ in told),
        "messages": sum(messages for _, messages in told),
        "resolved": resolved,
    }


@transaction.atomic
def _raise(seen: Passed, now: datetime) -> tuple[int, int]:
    """Open what was seen to be passed, if it still is. Returns how many alerts and messages."""
    budget = _lock(seen.budget_id)
    passed = next(iter(_passed(now, seen)), None)
    if budget is None or passed is None:
        return 0, 0
    rules = list(budget.rules.filter(kind=AlertRule.Kind.BUDGET, tenant=budget.tenant_id).prefetch_related("channels"))
    told = _channels_told(budget, rules, passed.thresholds)
    for threshold, channels in told.items():
        open_alert(_alert(budget, passed, threshold, rules, now), channels)
    # Last, as settlements wait for this row until the end of the transaction.
    highest = passed.thresholds[-1]
    BudgetPeriod.objects.filter(pk=passed.period_id, alerted__lt=highest).update(alerted=highest)
    return len(told), sum(map(len, told.values()))


@transaction.atomic
def _resolve(alert_id: UUID, budget_id: UUID | None, now: datetime) -> bool:
    if budget_id is not None:
        _lock(budget_id)
    if not _over(now, alert_id) or not resolve_alert(alert_id, now):
        return False
    with connection.cursor() as cursor:
        cursor.execute(_FORGET, {"now": now, "alert": alert_id})
    return True


def _lock(budget_id: UUID) -> Budget | None:
    """One worker at a time raises and resolves a budget's alerts, and its cap stays what it is meanwhile.

    The lock leaves the periods alone: no request waits for it.
    """
    return Budget.objects.select_for_update(no_key=True, of=("self",)).filter(pk=budget_id).first()


def _passed(now: datetime, seen: Passed | None = None) -> list[Passed]:
    """Of all budgets, or of what was seen before as it is now."""
    one: Mapping[str, UUID | str | None] = _ALL
    if seen is not None:
        one = {"budget": seen.budget_id, "subject": seen.subject, "period": seen.period_id}
    with connection.cursor() as cursor:
        cursor.execute(_PASSED, {"now": now, **one})
        return [Passed(*row) for row in cursor.fetchall()]


def _over(now: datetime, alert_id: UUID | None = None) -> list[tuple[UUID, UUID | None]]:
    """Open alerts whose condition is over, each with its budget if that is still there."""
    with connection.cursor() as cursor:
        cursor.execute(_OVER, {"now": now, "alert": alert_id})
        return [(alert, budget) for alert, budget in cursor.fetchall()]


def _channels_told(budget: Budget, rules: list[AlertRule], thresholds: Iterable[int]) -> dict[int, list[AlertChannel]]:
    """Who hears of which threshold. A budget that has rules, if only switched off, tells nobody beside them."""
    if not rules:
        return highest_for_each_channel(dict.fromkeys(thresholds, default_channels(budget.tenant_id)))
    heard = [(rule, channels_of(rule)) for rule in rules if rule.enabled]
    return highest_for_each_channel(
        {
            threshold: [channel for rule, channels in heard if _hears(rule, threshold) for channel in channels]
            for threshold in thresholds
        }
    )


def _hears(rule: AlertRule, threshold: int) -> bool:
    return rule.threshold is None or math.ceil(rule.threshold) == threshold


def _alert(budget: Budget, passed: Passed, threshold: int, rules: list[AlertRule], now: datetime) -> Alert:
    earlier = Alert.objects.filter(budget_period=passed.period_id, facts__threshold=threshold).count()
    occasion = f"budget:{passed.period_id}:{threshold}"
    return Alert(
        tenant_id=budget.tenant_id,
        rule=next((rule for rule in rules if rule.enabled and _hears(rule, threshold)), None),
        budget_period_id=passed.period_id,
        kind=AlertRule.Kind.BUDGET,
        occasion=f"{occasion}:{earlier + 1}" if earlier else occasion,
        message=_message(budget, passed, threshold)[:1000],
        facts=_facts(budget, passed, threshold, now),
        opened_at=now,
    )


def _facts(budget: Budget, passed: Passed, threshold: int, now: datetime) -> dict[str, Any]:
    percent = f"{_floored(passed.spent * 100 / budget.cap, 2):.2f}" if budget.cap else None
    starts_at, ends_at, resets_at = _span(budget, passed, now)
    return {
        "budget": budget.name,
        "scope": budget.scope,
        "subject": passed.subject,
        "metric": budget.metric,
        "threshold": threshold,
        "percent": percent,
        "spent": f"{passed.spent:f}",
        "cap": f"{budget.cap:f}",
        "hard": budget.hard,
        "period": budget.period,
        "rolling_s": budget.rolling_s,
        "starts_at": starts_at.isoformat(),
        "ends_at": ends_at.isoformat() if ends_at else None,
        "resets_at": resets_at.isoformat() if resets_at else None,
    }


def _span(budget: Budget, passed: Passed, now: datetime) -> tuple[datetime, datetime | None, datetime | None]:
    """Start and end of what was looked at, and when some of it is there again. A window is told as it lies now."""
    if budget.rolling_s is None or passed.oldest_ends_at is None:
        return passed.starts_at, passed.ends_at, passed.ends_at
    window = Window(kind="rolling", rolling_s=budget.rolling_s)
    return now - timedelta(seconds=budget.rolling_s), now, window.leaves_at(passed.oldest_ends_at)


def _message(budget: Budget, passed: Passed, threshold: int) -> str:
    whose = f" of {passed.subject}" if passed.subject else ""
    used = f"{_amount(budget, passed.spent)} of {_amount(budget, budget.cap)} {budget.get_metric_display()}"
    consequence = "what goes beyond the cap is refused" if budget.hard else "a soft limit, requests go on"
    return f'Budget "{budget.name}"{whose} has passed {threshold} %: {used}{_when(budget, passed)}; {consequence}.'


def _when(budget: Budget, passed: Passed) -> str:
    if budget.rolling_s is not None:
        return f" within {span_in_words(budget.rolling_s)}"
    return "" if budget.period == Budget.Period.TOTAL else f" since {passed.starts_at:%Y-%m-%d %H:%M} UTC"


def _amount(budget: Budget, amount: Decimal) -> str:
    """Never rounded up, and with enough decimals to tell a thousandth of the cap."""
    if budget.metric != Budget.Metric.USD:
        return f"{_floored(amount, 0):,.0f}"
    places = max(_CENTS, _TELLING - budget.cap.adjusted()) if budget.cap else _MOST_PLACES
    whole, _, rest = f"{_floored(amount, min(places, _MOST_PLACES)):,f}".partition(".")
    return f"{whole}.{rest.rstrip('0'):0<{_CENTS}}"


def _floored(amount: Decimal, places: int) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-places), ROUND_FLOOR)
