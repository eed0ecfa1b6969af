"""Billing's part of the management API: spend, budgets and alerts, to look at."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from django.apps import apps
from django.db.models import F, Q, QuerySet
from django.http import Http404
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSet

from billing.allowances import Allowance, budgets_of, plain_decimal
from billing.models import Alert
from billing.spend import (
    DIMENSIONS,
    FIGURE_NAMES,
    INTERVALS,
    Anomaly,
    Dimension,
    Figures,
    Interval,
    Latency,
    Spend,
    Value,
    anomaly,
    spend_of_all,
    trend,
)
from tenants.authentication import Manager
from tenants.models import Tenant
from tenants.roles import Permission

LONGEST: Final = timedelta(days=400)
PERCENTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
MOST_ALERTS: Final = 200
ANOMALY_HOURS: Final = {"hour": 1, "day": 24}
_STARTS_A_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
# What has a row of its own: its model, and how people call it.
_NAMED: Final[Mapping[str, tuple[str, str]]] = {
    "tenant": ("tenants.Tenant", "slug"),
    "project": ("tenants.Project", "slug"),
    "token": ("tenants.ApiToken", "name"),
    "model": ("gateway.Model", "name"),
    "provider": ("gateway.Provider", "name"),
}


class SpendCsv(BaseRenderer):
    """The rows of a spend answer. Text that a spreadsheet would take for a formula begins with an apostrophe."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> str:
        rows = data.get("data")
        if not isinstance(rows, list):  # an error
            return f"{data.get('detail', '')}\n"
        out = io.StringIO()
        columns = [*data["by"], *(["starts_at"] if data["interval"] else []), *_figures(Figures(), None)]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*columns, *(PERCENTILES if data["latency"] else ())])
        for row in rows:
            values = {**row, **{name: row[name] and row[name]["name"] for name in data["by"] if name in _NAMED}}
            writer.writerow([_cell(values[column]) for column in [*columns, *(PERCENTILES if data["latency"] else ())]])
        return out.getvalue()


@dataclass(frozen=True, slots=True)
class Seen:
    """The tenants a caller may look at; ``tenants`` is None for all there are."""

    tenants: list[UUID] | None
    zone: ZoneInfo

    @classmethod
    def by(cls, request: Request) -> "Seen":
        """Raises Http404 for a tenant that is not one of them, whether it exists or not."""
        manager: Manager = request.user
        allowed = manager.tenants_allowing(Permission.VIEW)
        rows = Tenant.objects.all() if allowed is None else Tenant.objects.filter(pk__in=list(allowed))
        if slug := request.query_params.get("tenant"):
            rows = rows.filter(slug=slug)
            if not rows.exists():
                raise Http404
        elif allowed is None:
            return cls(None, ZoneInfo("UTC"))
        zones = list(rows.values_list("pk", "time_zone"))
        return cls([pk for pk, _ in zones], ZoneInfo(zones[0][1] if len(zones) == 1 else "UTC"))

    def own(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows if self.tenants is None else rows.filter(tenant__in=self.tenants)


class SpendView(ViewSet):
    """``?by=model,day`` style sums; see docs/spend.md."""

    renderer_classes = (JSONRenderer, SpendCsv)

    def list(self, request: Request) -> Response:
        seen = Seen.by(request)
        since, until = _range(request, seen.zone)
        by, interval = _dimensions(request), _one_of(request, "interval", INTERVALS)
        latency = request.query_params.get("latency") in ("1", "true")
        where = _filters(request, seen)
        try:
            found = spend_of_all(
                since, until, tenants=seen.tenants, by=by, interval=interval, where=where, zone=seen.zone,
                latency=latency,
            )  # fmt: skip
            total = spend_of_all(since, until, tenants=seen.tenants, where=where, latency=latency)
            before = spend_of_all(since - (until - since), since, tenants=seen.tenants, where=where)
        except ValueError as exc:
            raise ValidationError({"detail": str(exc)}) from None
        return Response(
            {
                "since": found.since,
                "until": found.until,
                "time_zone": seen.zone.key,
                "by": list(by),
                "interval": interval,
                "latency": latency,
                "rolled_up_to": found.rolled_up_to,
                "data": _rows(found),
                "total": _figures(total.total, total.rows[0].latency if total.rows else None, latency=latency),
                "previous": {"since": before.since, "until": before.until, **_figures(before.total, None)},
            }
        )

    @action(detail=False, renderer_classes=[JSONRenderer])
    def trend(self, request: Request) -> Response:
        """The running period of one tenant beside the one before, where it leads to, and whether its last hour and
        its last day are unusual."""
        seen = Seen.by(request)
        if seen.tenants is None or len(seen.tenants) != 1:
            raise ValidationError({"detail": "Say which tenant: ?tenant=SLUG."})
        period = _one_of(request, "period", INTERVALS) or "month"
        tenant, where = Tenant.objects.get(pk=seen.tenants[0]), _filters(request, seen)
        try:
            found = trend(tenant, period, where=where)
        except ValueError as exc:
            raise ValidationError({"detail": str(exc)}) from None
        return Response(
            {
                "period": period,
                "starts_at": found.starts_at,
                "ends_at": found.ends_at,
                "so_far": _figures(found.so_far, None),
                "before_so_far": _figures(found.before_so_far, None),
                "before_whole": _figures(found.before_whole, None),
                "delta_usd": plain_decimal(found.delta_usd),
                "delta_ratio": None if found.delta_ratio is None else float(found.delta_ratio),
                "projected_usd": plain_decimal(found.projected_usd),
                "anomaly": {
                    name: _anomaly(anomaly(tenant, hours, where=where, running=True))
                    for name, hours in ANOMALY_HOURS.items()
                },
            }
        )


class BudgetsView(ViewSet):
    """Budgets as they stand."""

    def list(self, request: Request) -> Response:
        return Response({"data": [describe_allowance(found) for found in budgets_of(Seen.by(request).tenants)]})


class AlertsView(ViewSet):
    """What was told, open alerts first."""

    def list(self, request: Request) -> Response:
        alerts = Seen.by(request).own(Alert.objects.all()).select_related("tenant")
        newest = alerts.order_by(F("resolved_at").desc(nulls_first=True), "-opened_at")[:MOST_ALERTS]
        return Response({"data": [_alert(alert) for alert in newest]})


def _anomaly(found: Anomaly) -> dict[str, Any]:
    """The flag, and what it rests on."""
    return {
        "is_anomalous": found.is_anomalous,
        "since": found.since,
        "until": found.until,
        "spent_usd": plain_decimal(found.spent_usd),
        "usual_usd": None if found.usual_usd is None else plain_decimal(found.usual_usd),
        "limit_usd": None if found.limit_usd is None else plain_decimal(found.limit_usd),
        "days": found.days,
    }


def describe_allowance(found: Allowance) -> dict[str, Any]:
    return {
        "id": str(found.id),
        "tenant": found.tenant,
        "name": found.name,
        "scope": found.scope,
        "subject": found.subject,
        "metric": found.metric,
        "hard": found.hard,
        "period": found.period,
        "cap": plain_decimal(found.cap),
        "spent": plain_decimal(found.spent),
        "held": plain_decimal(found.held),
        "remaining": plain_decimal(found.remaining),
        "starts_at": found.starts_at,
        "ends_at": found.ends_at,
        "resets_at": found.resets_at,
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "id": str(alert.pk),
        "tenant": alert.tenant.slug if alert.tenant else None,
        "kind": alert.kind,
        "message": alert.message,
        "facts": alert.facts,
        "opened_at": alert.opened_at,
        "resolved_at": alert.resolved_at,
    }


def _rows(found: Spend) -> list[dict[str, Any]]:
    names = {name: _names(name, {row.key[place] for row in found.rows}) for place, name in enumerate(found.by)}
    return [
        {
            **{name: names[name](value) for name, value in zip(found.by, row.key, strict=True)},
            **({"starts_at": row.starts_at} if found.interval else {}),
            **_figures(row.figures, row.latency, latency=row.latency is not None),
        }
        for row in found.rows
    ]


def _names(dimension: str, values: set[Value]) -> Any:
    """How a value is told: with its name, where it is a row's key."""
    if dimension not in _NAMED:
        return lambda value: value
    label, field = _NAMED[dimension]
    known = dict(apps.get_model(label).objects.filter(pk__in=values - {None}).values_list("pk", field))
    return lambda value: None if value is None else {"id": str(value), "name": known.get(value)}


def _figures(figures: Figures, histogram: Latency | None, *, latency: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"spend_usd": plain_decimal(figures.spend_usd)}
    for name in FIGURE_NAMES:
        value = getattr(figures, name)
        told[name] = plain_decimal(value) if isinstance(value, Decimal) else value
    if latency:
        told |= {name: histogram and histogram.percentile_ms(share) for name, share in PERCENTILES.items()}
    return told


def _dimensions(request: Request) -> tuple[Dimension, ...]:
    wanted = [name for given in request.query_params.getlist("by") for name in given.split(",") if name]
    unknown = set(wanted) - set(DIMENSIONS)
    if unknown:
        raise ValidationError({"detail": f"by: {', '.join(sorted(unknown))[:200]} is none of {', '.join(DIMENSIONS)}."})
    return tuple(dict.fromkeys(wanted))  # type: ignore[arg-type]


def _one_of(request: Request, name: str, choices: tuple[Interval, ...]) -> Interval | None:
    given: Interval | None = request.query_params.get(name)
    if given is None or given in choices:
        return given
    raise ValidationError({"detail": f"{name}: give one of {', '.join(choices)}."})


def _filters(request: Request, seen: Seen) -> dict[Dimension, Collection[Value]]:
    """Values of dimensions: several mean any of them. Raises Http404 for a row the caller does not see."""
    where: dict[Dimension, Collection[Value]] = {}
    for name in DIMENSIONS:
        given = request.query_params.getlist(name)
        if given and name != "tenant":
            where[name] = _found(name, given, seen) if name in _NAMED else given
    return where


def _found(dimension: str, given: Iterable[str], seen: Seen) -> list[Value]:
    """Keys of rows by name or key. What the installation offers to all is everybody's to name."""
    label, field = _NAMED[dimension]
    rows: QuerySet[Any] = apps.get_model(label)._default_manager.all()
    if seen.tenants is not None:
        shared = Q(tenant=None) if dimension in ("model", "provider") else Q(pk__in=[])
        rows = rows.filter(Q(tenant__in=seen.tenants) | shared)
    found: list[Value] = []
    for text in given:
        keys = list(rows.filter(Q(**{field: text}) | Q(pk__in=_as_keys(text))).values_list("pk", flat=True))
        if not keys:
            raise Http404
        found += keys
    return found


def _as_keys(text: str) -> list[UUID]:
    try:
        return [UUID(text)]
    except ValueError:
        return []


def _range(request: Request, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """From ``from`` to ``to``: by default this month until now. A day means all of it."""
    now = datetime.now(UTC)
    month = now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since = _moment(request, "from", zone, month, timedelta(0))
    until = _moment(request, "to", zone, now, timedelta(days=1))
    if not since < until:
        raise ValidationError({"detail": "from has to be before to."})
    if until - since > LONGEST:
        raise ValidationError({"detail": f"Ask for at most {LONGEST.days} days at a time."})
    return since, until


def _moment(request: Request, name: str, zone: ZoneInfo, default: datetime, after_day: timedelta) -> datetime:
    text = request.query_params.get(name)
    if not text:
        return default
    try:
        if len(text) == len("2027-01-31"):
            return datetime.combine(date.fromisoformat(text) + after_day, time(), zone)
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError({"detail": f"{name}: give a day or a time like 2027-01-31T12:00Z."}) from None


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA):
        return f"'{value}"
    return value


router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("spend", SpendView, basename="spend")
router.register("budgets", BudgetsView, basename="budget")
router.register("budget", BudgetsView, basename="budget-by-its-other-name")
router.register("alerts", AlertsView, basename="alert")
