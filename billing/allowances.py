"""What may still be spent: budgets with their present figures, for those who may see them."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from billing.models import Budget, BudgetPeriod, RateLimit
from billing.models.budgets import EVERY
from billing.spend import spend_of
from billing.spend.ranges import ceil_hour
from billing.windows import Window
from tenants.models import ApiToken


@dataclass(frozen=True, slots=True)
class Allowance:
    """A budget of one subject in its present period, in the budget's metric (USD, tokens or requests).

    ``held`` is reserved for what runs now and given back where it is not needed. ``ends_at`` is None where the period
    never ends; of a rolling window the span is the window as it lies now, and ``resets_at`` when the first of what was
    used in it leaves it (None: nothing was).
    """

    id: UUID
    tenant: str | None
    name: str
    scope: str
    subject: str
    metric: str
    hard: bool
    period: str
    cap: Decimal
    spent: Decimal
    held: Decimal
    starts_at: datetime
    ends_at: datetime | None
    resets_at: datetime | None

    @property
    def remaining(self) -> Decimal:
        return max(self.cap - self.spent - self.held, Decimal(0))

    @property
    def used_percent(self) -> str | None:
        """Spent, of the cap; rounded down to two decimals. None of a cap of nothing."""
        if not self.cap:
            return None
        return str((self.spent * 100 / self.cap).quantize(Decimal("0.01"), ROUND_FLOOR))


@dataclass(frozen=True, slots=True)
class Reach:
    """Names of the models and providers that a token's requests can come to."""

    models: frozenset[str]
    providers: frozenset[str]


def budgets_of(tenants: Iterable[UUID] | None, now: datetime | None = None) -> list[Allowance]:
    """Every enabled budget of these tenants; None: of all tenants, and the installation's.

    A budget of each one's own has a line for each subject that used some of it.
    """
    budgets = Budget.objects.filter(enabled=True)
    return _allowances(budgets if tenants is None else budgets.filter(tenant__in=tenants), now)


def budgets_for(token: ApiToken, reach: Reach, now: datetime | None = None) -> list[Allowance]:
    """Every budget that can refuse a request of this token, but for those of one end user by name.

    One of each model's or provider's own has a line for each that the token can reach. One of each end user's or
    budget key's own has a single line, without figures: whose they are is not the token's to know.
    """
    named = {Budget.Scope.MODEL: reach.models, Budget.Scope.PROVIDER: reach.providers}
    own = (
        Q(scope=Budget.Scope.TOKEN, token=token)
        | Q(scope=Budget.Scope.PROJECT, project=token.project_id)
        | Q(scope=Budget.Scope.TENANT)
        | Q(scope=Budget.Scope.USER, subject=EVERY)
        | Q(scope=Budget.Scope.KEY)
    )
    for scope, names in named.items():
        own |= Q(scope=scope, subject__in=[*names, EVERY])
    holding = Q(own, tenant=token.tenant_id) | Q(scope=Budget.Scope.INSTALLATION, tenant=None)

    def told(budget: Budget, subject: str) -> bool:
        return not subject or subject in named.get(Budget.Scope(budget.scope), ())

    return _allowances(Budget.objects.filter(holding, enabled=True), now, told)


def rate_limits_for(token: ApiToken) -> list[RateLimit]:
    """What holds for all this token does: its own, its project's and its tenant's limits."""
    holding = (
        Q(scope=RateLimit.Scope.TOKEN, token=token)
        | Q(scope=RateLimit.Scope.PROJECT, project=token.project_id)
        | Q(scope=RateLimit.Scope.TENANT)
    )
    return list(RateLimit.objects.filter(holding, tenant=token.tenant_id).order_by("scope"))


def usage_of(token_id: str, reach: Reach, now: datetime | None = None) -> dict[str, Any]:
    """What one token is told of itself: spend and counts of today and of this month by its tenant's calendar, the
    budgets that can refuse it, and the rate limits that hold for all it does."""
    now = now or datetime.now(UTC)
    token = ApiToken.objects.select_related("tenant", "project").get(pk=token_id)
    zone = token.tenant.time_zone
    told: dict[str, Any] = {"object": "usage", "key": token.name, "project": token.project.slug, "time_zone": zone}
    for name, kind in (("today", "day"), ("this_month", "month")):
        since, _ = Window(kind=kind, time_zone=zone).period(now)  # type: ignore[arg-type]
        found = spend_of(token.tenant, ceil_hour(since), now, where={"token": [token.pk]}, now=now).total
        told[name] = {
            "spend_usd": plain_decimal(found.spend_usd),
            "requests": found.requests,
            "tokens": found.tokens,
            "input_tokens": found.input_tokens + found.cached_input_tokens + found.cache_write_tokens,
            "output_tokens": found.output_tokens + found.reasoning_tokens,
        }
    told["budgets"] = [_told(allowance) for allowance in budgets_for(token, reach, now)]
    told["rate_limits"] = [_limit(limit.scope, limit) for limit in rate_limits_for(token)]
    if token.requests_per_minute:
        own = RateLimit(requests_per_minute=token.requests_per_minute)
        told["rate_limits"].append(_limit("token", own))
    return told


def _told(found: Allowance) -> dict[str, Any]:
    """Amounts of the installation's budgets are the operators' own: others learn how full they are."""
    operators = found.scope == Budget.Scope.INSTALLATION
    counted = found.subject != EVERY or found.scope not in (Budget.Scope.USER, Budget.Scope.KEY)
    figures = {"spent": found.spent, "held": found.held, "left": found.remaining}
    return {
        "name": found.name,
        "scope": found.scope,
        "subject": found.subject or None,
        "metric": found.metric,
        "hard": found.hard,
        "period": found.period,
        "cap": None if operators else plain_decimal(found.cap),
        **{name: plain_decimal(value) if counted and not operators else None for name, value in figures.items()},
        "used_percent": found.used_percent if counted else None,
        "resets_at": found.resets_at,
    }


def _limit(scope: str, limit: RateLimit) -> dict[str, Any]:
    return {
        "scope": scope,
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
        "concurrent": limit.concurrent,
    }


def plain_decimal(amount: Decimal) -> str:
    """Exact, without exponent and trailing zeros."""
    return format(amount.normalize(), "f") if amount else "0"


def _allowances(
    budgets: QuerySet[Budget],
    now: datetime | None,
    told: Callable[[Budget, str], bool] = lambda _budget, _subject: True,
) -> list[Allowance]:
    """``told``: whether a subject that used some of a budget has a line."""
    now = now or datetime.now(UTC)
    rows = list(budgets.select_related("tenant", "project", "token").order_by("tenant__slug", "name"))
    used: dict[UUID, dict[str, list[BudgetPeriod]]] = defaultdict(lambda: defaultdict(list))
    for period in _present_periods(rows, now):
        used[period.budget_id][period.subject].append(period)
    return [
        _allowance(budget, subject, periods, now)
        for budget in rows
        for subject, periods in sorted(_of_subjects(budget, used[budget.pk], told))
    ]


def _of_subjects(
    budget: Budget, used: dict[str, list[BudgetPeriod]], told: Callable[[Budget, str], bool]
) -> list[tuple[str, list[BudgetPeriod]]]:
    """A budget that nobody used any of, as far as may be told, has a line too."""
    return [(subject, periods) for subject, periods in used.items() if told(budget, subject)] or [("", [])]


def _present_periods(budgets: list[Budget], now: datetime) -> QuerySet[BudgetPeriod]:
    """Of a rolling window all slices that are not wholly outside."""
    running = Q(starts_at__lte=now) & (Q(ends_at__gt=now) | Q(ends_at=None))
    wanted = Q(pk__in=[])
    whole = [budget.pk for budget in budgets if budget.rolling_s is None]
    wanted |= running & Q(budget__in=whole)
    for budget in budgets:
        if budget.rolling_s is not None:
            slice_start, _ = Window(kind="rolling", rolling_s=budget.rolling_s).period(now)
            since = slice_start - timedelta(seconds=budget.rolling_s)
            wanted |= Q(budget=budget, starts_at__lte=now, ends_at__gt=since)
    return BudgetPeriod.objects.filter(wanted).order_by("starts_at")


def _allowance(budget: Budget, subject: str, periods: list[BudgetPeriod], now: datetime) -> Allowance:
    starts_at, ends_at, resets_at = _span(budget, periods, now)
    return Allowance(
        id=budget.pk,
        tenant=budget.tenant.slug if budget.tenant else None,
        name=budget.name,
        scope=budget.scope,
        subject=subject or _subject(budget),
        metric=budget.metric,
        hard=budget.hard,
        period=budget.period,
        cap=budget.cap,
        spent=sum((period.spent for period in periods), Decimal(0)),
        held=sum((period.held for period in periods), Decimal(0)),
        starts_at=starts_at,
        ends_at=ends_at,
        resets_at=resets_at,
    )


def _span(
    budget: Budget, periods: list[BudgetPeriod], now: datetime
) -> tuple[datetime, datetime | None, datetime | None]:
    if budget.rolling_s is not None:
        window = timedelta(seconds=budget.rolling_s)
        used = [period.ends_at for period in periods if period.ends_at and period.spent + period.held > 0]
        rolling = Window(kind="rolling", rolling_s=budget.rolling_s)
        return now - window, now, rolling.leaves_at(min(used)) if used else None
    zone = budget.tenant.time_zone if budget.tenant else "UTC"
    starts_at, ends_at = Window(kind=budget.period, time_zone=zone).period(now)  # type: ignore[arg-type]
    return starts_at, ends_at, ends_at


def _subject(budget: Budget) -> str:
    """What it holds for, as people know it."""
    whose: str = budget.subject
    if budget.token is not None:
        whose = budget.token.name
    elif budget.project is not None:
        whose = budget.project.slug
    return whose
