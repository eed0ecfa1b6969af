"""What a week's replays show: which models have changed, and whether the yardstick has."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from django.db import transaction

from gateway.policy import TenantPolicy
from routing.drift import Replayed, UnreadableWatch, Watch, review
from routing.learning import reopen
from routing.models import DriftWatch, ReplayVerdict, RoutingSettings
from tenants.models import Tenant

logger = logging.getLogger(__name__)

CONTROL: Final = ""  # the name under which the control's own watch is kept


@dataclass(slots=True)
class Week:
    """One tenant's run of one week: who answers beside the models, who judges, and what may still be spent."""

    routing: RoutingSettings
    policy: TenantPolicy
    monday: date
    control: str
    judge: str
    left_usd: Decimal
    failed: int = 0
    asked: int = 0
    spent_usd: Decimal = field(default_factory=Decimal)

    @property
    def yardstick(self) -> str:
        return f"{self.control} judged by {self.judge}"


@transaction.atomic
def take_in(week: Week, now: datetime) -> list[str]:
    """Take the week into the tenant's watches. Returns the alarms in words; a model whose quality has changed is opened
    again in the router's beliefs."""
    tenant = week.routing.tenant
    verdicts = list(ReplayVerdict.objects.filter(tenant=tenant, week=week.monday))
    models = sorted({row.model_name for row in verdicts if not row.control and row.model_name != week.control})
    rows = {
        name: DriftWatch.objects.select_for_update().get_or_create(tenant=tenant, model_name=name)[0]
        for name in (*models, CONTROL)
    }
    watches = {name: _watch_of(row) for name, row in rows.items()}
    control = watches.pop(CONTROL)
    result = review(
        watches,
        control,
        week.monday,
        {name: [_replayed(row) for row in verdicts if row.model_name == name and not row.control] for name in models},
        _values(row for row in verdicts if row.control),
        yardstick=week.yardstick,
    )
    for alarm in result.alarms:
        row = rows[alarm.reading.model]
        row.alarmed_at, row.reason = now, alarm.reason[:500]
        if alarm.reading.signal == "quality":
            reopen(tenant, alarm.reading.model)
    alarms = [alarm.reason for alarm in result.alarms]
    if result.control_moved and _is_news(control, tenant, week.control):
        told = f"{week.control}, the control of replays: {result.control_moved}"
        said = {"alarmed_at": now, "reason": told[:500]}
        DriftWatch.objects.update_or_create(tenant=tenant, model_name=week.control, defaults=said)
        reopen(tenant, week.control)
        alarms.append(told)
    for name, row in rows.items():
        row.state = (watches[name] if name != CONTROL else control).to_data()
        row.last_week = week.monday
        row.save()
    return [f"{tenant.slug}: {told}" for told in alarms]


def _watch_of(row: DriftWatch) -> Watch:
    try:
        return Watch.from_data(row.state)
    except UnreadableWatch as exc:
        logger.warning("the watch of %s begins anew: %s", row, exc)
        return Watch()


def _is_news(control: Watch, tenant: Tenant, model: str) -> bool:
    """Whether what moved the control began after the last time that something was said of its model."""
    since = control.of("quality").likeliest_start
    former = DriftWatch.objects.filter(tenant=tenant, model_name=model).exclude(alarmed_at=None).first()
    return former is None or former.alarmed_at is None or (since is not None and since > former.alarmed_at.date())


def _replayed(row: ReplayVerdict) -> Replayed:
    return Replayed(
        conversation=str(row.conversation_id),
        value=row.value,
        output_tokens=row.output_tokens or None,
        refused=row.refused,
        valid_json=row.valid_json,
        latency_s=row.latency_ms / 1000 if row.latency_ms is not None else None,
    )


def _values(rows: Iterable[ReplayVerdict]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.value is not None:
            values.setdefault(str(row.conversation_id), []).append(row.value)
    return values
