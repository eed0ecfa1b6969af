"""How much of a budget is used right now, and how that is shown."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, cast
from uuid import UUID

from django.db import connection
from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.models import Budget
from billing.windows import Kind, Window
from gateway.admin_columns import count, plain_decimal

_FULL: Final = 100
_NEARLY_FULL: Final = 80

# A budget that is everybody's own has a period for each; the fullest is shown.
_USE: Final = """
SELECT DISTINCT ON (budget_id) budget_id, subject, spent, held FROM (
  SELECT p.budget_id, p.subject, sum(p.spent) AS spent, sum(p.held) AS held
  FROM unnest(%(budgets)s::uuid[], %(since)s::timestamptz[]) AS b(id, since)
  JOIN billing_budgetperiod p ON p.budget_id = b.id AND p.starts_at >= b.since
  WHERE p.starts_at <= %(now)s
  GROUP BY p.budget_id, p.subject
) AS used ORDER BY budget_id, spent + held DESC
"""


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """Spent and held, in the budget's metric, by ``subject`` where each has the cap by itself."""

    subject: str = ""
    spent: Decimal = Decimal(0)
    held: Decimal = Decimal(0)


def window_of(budget: Budget) -> Window:
    zone = budget.tenant.time_zone if budget.tenant else "UTC"
    return Window(cast("Kind", budget.period), zone, budget.rolling_s)


def use_of(budgets: Iterable[Budget], now: datetime) -> dict[UUID, BudgetUse]:
    """Of each of these budgets, by its key, in one query; one that nothing was counted for is not in it."""
    since = {budget.pk: _since(window_of(budget), now) for budget in budgets}
    with connection.cursor() as cursor:
        cursor.execute(_USE, {"budgets": list(since), "since": list(since.values()), "now": now})
        return {key: BudgetUse(subject, spent, held) for key, subject, spent, held in cursor.fetchall()}


def _since(window: Window, now: datetime) -> datetime:
    """The start of the first period that counts; a rolling window is several, as admission adds them up."""
    start, _ = window.period(now)
    if window.kind != "rolling":
        return start
    return start - timedelta(seconds=window.rolling_s or 0) + timedelta.resolution


def use_bar(spent: Decimal, held: Decimal, cap: Decimal) -> SafeString | str:
    """A bar with per cent, of what was spent and is held; the exact amounts are its title."""
    used = spent + held
    if not cap:
        return "nothing allowed"
    share = used * _FULL / cap
    return format_html(
        '<meter min="0" max="{}" high="{}" optimum="0" value="{}" title="{} spent, {} held">{}</meter> {}',
        _FULL,
        _NEARLY_FULL,
        f"{min(share, Decimal(_FULL)):.2f}",
        plain_decimal(spent),
        plain_decimal(held),
        f"{share:.0f} %",
        f"{share:.1f} %",
    )


def amount(value: Decimal, metric: str) -> str:
    """With its unit."""
    if metric == Budget.Metric.USD:
        return f"${plain_decimal(value)}"
    return f"{count(int(value))} {metric}"


def every(seconds: int) -> str:
    """The length of a rolling window, for reading."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds > length and seconds % length == 0:
            return f"last {seconds // length} {unit}"
    return f"last {seconds} seconds"
