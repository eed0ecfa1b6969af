"""Once a day a picture of what each router believes, beside what its decisions cost."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Count, Sum

from gateway.rows import first_id
from routing.engine import Engine, UnreadableState
from routing.models import Decision, RouterState, RoutingSettings, WeightSnapshot


def snapshot_weights(now: datetime) -> dict[str, Any]:
    """Keep the picture of yesterday (UTC), as beliefs stand now. Returns how many were ``taken``; one that is there
    already is made again from the same figures."""
    day = now.date() - timedelta(days=1)
    taken = 0
    engines = dict(RoutingSettings.objects.values_list("tenant_id", "engine"))
    for state in RouterState.objects.select_related("tenant").order_by("pk"):
        if state.engine != engines.get(state.tenant_id, RoutingSettings.Engine.HIER):
            continue  # of an engine the tenant has left
        traffic = _traffic(state, day, now)
        WeightSnapshot.objects.update_or_create(
            tenant=state.tenant,
            day=day,
            defaults={
                "engine": state.engine,
                "labels": state.labels,
                "by_model": _beliefs(state, traffic),
                "requests": sum(requests for requests, _ in traffic.values()),
                "cost_usd": sum((usd for _, usd in traffic.values()), Decimal(0)),
            },
        )
        taken += 1
    return {"taken": taken}


def _traffic(state: RouterState, day: date, now: datetime) -> dict[str, tuple[int, Decimal]]:
    """(routed requests, USD) of a day by the model that answered."""
    begins = datetime.combine(day, datetime.min.time(), now.tzinfo)
    decisions = Decision.objects.filter(
        tenant=state.tenant_id,
        request_id__gte=first_id(begins),
        request_id__lt=first_id(begins + timedelta(days=1)),
        status=200,
    )
    rows = decisions.values("model_name").annotate(requests=Count("request_id"), usd=Sum("cost_usd")).order_by()
    return {row["model_name"]: (row["requests"], row["usd"] or Decimal(0)) for row in rows}


def _beliefs(state: RouterState, traffic: dict[str, tuple[int, Decimal]]) -> dict[str, dict[str, Any]]:
    """By model: mean and sd where the engine has beliefs, labels, requests and USD of the day."""
    told: dict[str, dict[str, Any]] = {
        model: {"requests": requests, "usd": str(usd)} for model, (requests, usd) in traffic.items()
    }
    if state.engine != "hier" or not state.state:
        return told
    try:
        engine = Engine.from_bytes(bytes(state.state))
    except UnreadableState:
        return told
    for row in engine.pool_summary():
        known = told.setdefault(row.model, {"requests": 0, "usd": "0"})
        known.update(mean=round(row.quality, 4), sd=round(row.sd, 4), labels=row.labels)
    return told
