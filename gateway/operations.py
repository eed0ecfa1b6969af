"""The numbers of the operators' start page: how today goes, and what needs attention.

Queries only, bounded by the tables' time-ordered keys: nothing here reads further back than two days, except the
month's own partitions. Times are UTC, money is USD, durations are milliseconds.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.db import connection
from django.db.models import Aggregate, Count, FloatField, Q, QuerySet, Sum
from django.db.models.functions import TruncHour
from django.urls import reverse

from billing.models import Adjustment, Attempt, GatewayProcess, PriceVersion, RollupMark, Settlement
from billing.pricing import select
from billing.spend import Spend, spend_of_all
from gateway.admin_columns import list_url
from gateway.models import Model, Provider, ProviderKey, RequestLog
from gateway.providers import catalog
from gateway.rows import first_id
from tenants.models import ApiToken, Tenant

TOP: Final = 8
CHART_HOURS: Final = 24
EXPIRY_WARNING: Final = timedelta(days=14)
ROLL_UP_WARNING: Final = timedelta(minutes=30)
# A budget, quota or rate limit that did its work is no failure, and a caller who hung up (499) had no answer at all.
REFUSED: Final = Q(status__in=(402, 429))
FAILED: Final = Q(status__gte=400) & ~Q(status=499) & ~REFUSED


class Percentile95(Aggregate):
    """Exact, over all rows of the group."""

    function = "percentile_cont"
    template = "%(function)s(0.95) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a span of time. ``refused`` counts what budgets, quotas and rate limits refused, which is not in ``errors``;
    ``unpriced`` counts settled calls whose price is unknown: they are missing in ``spend_usd``."""

    requests: int
    errors: int
    refused: int
    p95_ms: float | None
    spend_usd: Decimal
    unpriced: int

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Hour:
    starts_at: datetime
    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class TenantSpend:
    id: uuid.UUID
    slug: str
    requests: int
    spend_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    name: str
    requests: int
    p95_ms: float
    first_token_p95_ms: float | None


@dataclass(frozen=True, slots=True)
class ProviderFailures:
    id: uuid.UUID
    name: str
    tenant: str | None
    calls: int
    failures: int

    @property
    def rate(self) -> float:
        return self.failures / self.calls


@dataclass(frozen=True, slots=True)
class Attention:
    """Something an operator should look at; ``url`` is where."""

    subject: str
    message: str
    url: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The start page. ``before`` is yesterday up to the same time of day."""

    now: datetime
    today: Totals
    before: Totals
    hours: list[Hour]
    spend: list[TenantSpend]
    slowest: list[ModelSpeed]
    failing: list[ProviderFailures]
    errors: list[RequestLog]
    attention: list[Attention]
    has_requests: bool


def overview(now: datetime | None = None) -> Overview:
    """All of it, in a fixed number of queries."""
    now = now or datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    day = timedelta(days=1)
    today = requests_between(midnight, now)
    spent = spend_of_all(midnight, now, by=["tenant"], now=now)
    return Overview(
        now=now,
        today=_totals(today, spent.total.spend_usd, spent.total.unpriced),
        before=totals(midnight - day, now - day),
        hours=hours_until(now),
        spend=_spend_by_tenant(today, spent),
        slowest=_slowest_models(today),
        failing=_failing_providers(midnight, now),
        errors=list(requests_between(now - day, now).filter(FAILED).select_related("tenant").order_by("-id")[:TOP]),
        attention=attention(now),
        has_requests=RequestLog.objects.exists(),
    )


def requests_between(start: datetime, end: datetime) -> QuerySet[RequestLog]:
    return RequestLog.objects.filter(id__gte=first_id(start), id__lt=_after(end))


def totals(start: datetime, end: datetime) -> Totals:
    """To the very moment, out of the ledger: sums of spend end with whole hours."""
    spent = Settlement.objects.filter(attempt__gte=first_id(start), attempt__lt=_after(end)).aggregate(
        usd=Sum("cost_usd"), unpriced=Count("pk", filter=Q(cost_usd=None, outcome=Settlement.Outcome.SETTLED))
    )
    adjusted = Adjustment.objects.filter(id__gte=first_id(start), id__lt=_after(end)).aggregate(usd=Sum("amount_usd"))
    spend = (spent["usd"] or Decimal(0)) + (adjusted["usd"] or Decimal(0))
    return _totals(requests_between(start, end), spend, spent["unpriced"])


def _totals(requests: QuerySet[RequestLog], spend_usd: Decimal, unpriced: int) -> Totals:
    served = requests.aggregate(
        requests=Count("id"),
        errors=Count("id", filter=FAILED),
        refused=Count("id", filter=REFUSED),
        p95_ms=Percentile95("latency_ms"),
    )
    return Totals(spend_usd=spend_usd, unpriced=unpriced, **served)


def hours_until(now: datetime) -> list[Hour]:
    """The last 24 hours, the running one included; an hour without requests is there with 0."""
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    starts = [this_hour - timedelta(hours=back) for back in reversed(range(CHART_HOURS))]
    rows = (
        requests_between(starts[0], now)
        .annotate(hour=TruncHour("started_at", tzinfo=UTC))
        .order_by()
        .values("hour")
        .annotate(requests=Count("id"), errors=Count("id", filter=FAILED))
    )
    known = {row["hour"]: (row["requests"], row["errors"]) for row in rows}
    return [Hour(start, *known.get(start, (0, 0))) for start in starts]


def story(request: RequestLog) -> QuerySet[Attempt]:
    """The attempts made for one request, in order, with how each ended."""
    return (
        Attempt.objects.filter(request_id=request.pk)
        .select_related("tenant", "provider", "model", "settlement")
        .order_by("id")
    )


def effective_prices(models: Iterable[Model], now: datetime | None = None) -> dict[uuid.UUID, PriceVersion]:
    """The price that holds for each model, by its key; models of unknown price are missing.

    An installation-wide model is looked at without any tenant's own prices.
    """
    now = now or datetime.now(UTC)
    models = list(models)
    kinds = {model.provider.kind for model in models}
    rows = PriceVersion.objects.filter(
        Q(model__in=[model.pk for model in models]) | Q(model=None, provider_kind__in=[*kinds, ""]),
        effective_from__lte=now,
    )
    by_id = {str(row.pk): row for row in rows}
    versions = [row.as_priced_version() for row in by_id.values()]
    found = {}
    for model in models:
        price = select(
            versions,
            provider_kind=model.provider.kind,
            vendor_model=model.vendor_model,
            model_id=str(model.pk),
            tenant_id=str(model.tenant_id or ""),
            at=now,
        )
        if price is not None:
            found[model.pk] = by_id[price.version_id]
    return found


def attention(now: datetime) -> list[Attention]:
    return [
        *_provider_problems(),
        *_unpriced_models(now),
        *_expiring_tokens(now),
        *_stray_rows(),
        *_lost_processes(now),
        *_roll_ups_that_stand_still(now),
    ]


def _after(end: datetime) -> uuid.UUID:
    """Rows made in the millisecond of ``end`` still belong to the span."""
    return first_id(end + timedelta(milliseconds=1))


def _spend_by_tenant(today: QuerySet[RequestLog], spent: Spend) -> list[TenantSpend]:
    requests = dict(today.order_by().values_list("tenant").annotate(requests=Count("id")))
    usd = {row.key[0]: row.figures.cost_usd for row in spent.rows}
    slugs = dict(Tenant.objects.filter(pk__in={*requests, *usd} - {None}).values_list("pk", "slug"))
    rows = [TenantSpend(pk, slug, requests.get(pk, 0), usd.get(pk)) for pk, slug in slugs.items()]
    rows.sort(key=lambda row: (row.spend_usd or Decimal(0), row.requests), reverse=True)
    return rows[:TOP]


def _slowest_models(requests: QuerySet[RequestLog]) -> list[ModelSpeed]:
    rows = (
        requests.filter(status__lt=400)
        .exclude(model_name="")
        .order_by()
        .values("model_name")
        .annotate(
            requests=Count("id"),
            p95_ms=Percentile95("latency_ms"),
            first_token_p95_ms=Percentile95("first_token_ms"),
        )
        .order_by("-p95_ms")[:TOP]
    )
    return [ModelSpeed(row["model_name"], row["requests"], row["p95_ms"], row["first_token_p95_ms"]) for row in rows]


def _failing_providers(start: datetime, end: datetime) -> list[ProviderFailures]:
    rows = (
        Attempt.objects.filter(id__gte=first_id(start), id__lt=_after(end))
        .order_by()
        .values("provider", "provider__name", "provider__tenant__slug")
        .annotate(calls=Count("id"), failures=Count("id", filter=Q(settlement__outcome=Settlement.Outcome.FAILED)))
        .filter(failures__gt=0)
        .order_by("-failures")[:TOP]
    )
    return [
        ProviderFailures(
            row["provider"], row["provider__name"], row["provider__tenant__slug"], row["calls"], row["failures"]
        )
        for row in rows
    ]


def _provider_problems() -> list[Attention]:
    with_key = ProviderKey.objects.filter(status=ProviderKey.Status.ACTIVE).values("provider")
    needs_key = [kind for kind in catalog.KINDS if catalog.get(kind).key_required]
    failing = Provider.objects.filter(enabled=True, check_status=Provider.Status.FAILING)
    keyless = Provider.objects.filter(enabled=True, kind__in=needs_key).exclude(pk__in=with_key)
    return [
        *(
            Attention("Provider failing", f"{_owned(row)}: {row.check_message}", _page("gateway_provider", row.pk))
            for row in failing.select_related("tenant")[:TOP]
        ),
        *(
            Attention("Provider without a key", _owned(row), _page("gateway_provider", row.pk))
            for row in keyless.select_related("tenant")[:TOP]
        ),
    ]


def _unpriced_models(now: datetime) -> list[Attention]:
    models = list(Model.objects.filter(enabled=True, provider__enabled=True).select_related("tenant", "provider"))
    priced = effective_prices(models, now)
    return [
        Attention("Model without a price", _owned(model), _page("gateway_model", model.pk))
        for model in models
        if model.pk not in priced
    ][:TOP]


def _expiring_tokens(now: datetime) -> list[Attention]:
    soon = ApiToken.objects.filter(revoked_at=None, expires_at__gt=now, expires_at__lt=now + EXPIRY_WARNING)
    return [
        Attention("Token expires", f"{_owned(row)} on {row.expires_at:%d %B}", _page("tenants_apitoken", row.pk))
        for row in soon.select_related("tenant").order_by("expires_at")[:TOP]
    ]


def _stray_rows() -> list[Attention]:
    """Rows in a default partition: their month had none when they came."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, c.oid::regclass::text FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partdefid"
        )
        defaults = cursor.fetchall()
        if not defaults:
            return []
        probes = " UNION ALL ".join(
            f"(SELECT %s WHERE EXISTS (SELECT FROM {table}))"  # noqa: S608 - names out of PostgreSQL's catalogue
            for _, table in defaults
        )
        cursor.execute(probes, [name for name, _ in defaults])
        return [
            Attention("Rows outside any month", f"{name}: run manage.py doctor", list_url("billing_gatewayprocess"))
            for (name,) in cursor.fetchall()
        ]


def _lost_processes(now: datetime) -> list[Attention]:
    lost = GatewayProcess.objects.filter(heartbeat_at__lt=now - GatewayProcess.LOST_AFTER).order_by("heartbeat_at")
    return [
        Attention(
            "Process without a heartbeat",
            f"{row.label}, last seen {row.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC",
            list_url("billing_gatewayprocess"),
        )
        for row in lost[:TOP]
    ]


def _roll_ups_that_stand_still(now: datetime) -> list[Attention]:
    mark = RollupMark.objects.filter(rolled_up_to__lt=now - ROLL_UP_WARNING).first()
    if mark is None:
        return []
    message = f"spend is up to {mark.rolled_up_to:%Y-%m-%d %H:%M} UTC only: does the background worker run?"
    return [Attention("Roll-ups stand still", message, list_url("billing_gatewayprocess"))]


def _owned(row: Any) -> str:
    return f"{row.tenant.slug} / {row.name}" if row.tenant else row.name


def _page(model: str, pk: uuid.UUID) -> str:
    return reverse(f"admin:{model}_change", args=[pk])
