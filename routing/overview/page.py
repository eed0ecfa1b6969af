"""The page of a tenant's router, in a fixed number of queries that are bounded however much traffic there is."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from django.db import connection

from gateway.rows import first_id, moment_of
from routing.learning import BY_RATINGS
from routing.models import Decision, DriftWatch, RouterState, RoutingSettings, WeightSnapshot
from routing.overview.beliefs import Belief, Beliefs, HeatMap, beliefs_of, heat_map
from routing.overview.explained import weighed
from routing.overview.moves import Curve, belief_curves, spend_curve
from routing.overview.recovered import Recovered, recovered
from routing.steering import judging_usd
from tenants.models import Tenant

LOOKED_AT: Final = 500  # decisions
SHOWN: Final = 20
ANSWERS_WITHIN: Final = timedelta(days=7)
MOST_ANSWERS: Final = 20_000
MOST_LABELS: Final = 50_000
MOST_DAYS: Final = 90

_ANSWERS: Final = """
SELECT model_name, count(*), sum(cost_usd), count(cost_usd),
  percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms)
FROM (
  SELECT model_name, cost_usd, latency_ms FROM routing_decision
  WHERE tenant_id = %s AND request_id >= %s AND status = 200 AND model_name <> ''
  ORDER BY request_id DESC LIMIT %s
) AS recent GROUP BY model_name
"""
_LABELS: Final = """
SELECT task, complexity, model_name, count(*) FROM (
  SELECT task, complexity, model_name FROM routing_label
  WHERE tenant_id = %s AND position IS NOT NULL AND left_out = ''
  ORDER BY position DESC LIMIT %s
) AS learned GROUP BY task, complexity, model_name
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's recent answers to routed requests. Without a known price there is no cost."""

    count: int
    usd_per_1000: Decimal | None
    median_ms: float


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of the pool. ``share`` is of the recent answers; ``alarms`` say what was noticed of it."""

    name: str
    belief: Belief | None
    labels: int
    answers: Answers | None
    share: float
    alarms: Sequence[str]


@dataclass(frozen=True, slots=True)
class RecentDecision:
    decision: Decision
    at: datetime


@dataclass(frozen=True, slots=True)
class RouterOverview:
    """``labels`` the engine has learned; ``judged_usd`` was spent on judging today. ``problem``: its state cannot be
    read."""

    tenant: Tenant
    settings: RoutingSettings
    state: RouterState | None
    labels: int
    judge_probability: float
    judged_usd: Decimal
    models: Sequence[ModelLine]
    recovered: Recovered | None
    heat: HeatMap | None
    beliefs: Sequence[Curve]
    spend: Curve | None
    decisions: Sequence[RecentDecision]
    problem: str


def overview_of(tenant: Tenant, now: datetime | None = None) -> RouterOverview:
    """All that the page shows."""
    now = now or datetime.now(UTC)
    settings = RoutingSettings.of(tenant)
    state = RouterState.objects.filter(tenant=tenant, engine=settings.engine).first()
    known = beliefs_of(state)
    decisions = list(Decision.objects.filter(tenant=tenant).order_by("-request_id")[:LOOKED_AT])
    snapshots = list(WeightSnapshot.objects.filter(tenant=tenant).order_by("-day")[:MOST_DAYS])[::-1]
    labels = _labels(tenant)
    models = _models(tenant, known, decisions, labels, now)
    cells = {
        *((one.task, one.complexity) for one in decisions),
        *((task, complexity) for task, complexity, _ in labels),
    }
    return RouterOverview(
        tenant=tenant,
        settings=settings,
        state=state,
        labels=state.labels if state else 0,
        judge_probability=state.judge_probability if state else 0.0,
        judged_usd=judging_usd(tenant, now),
        models=models,
        recovered=recovered(known.engine, decisions) if known.engine else None,
        heat=heat_map(known.cells, [line.name for line in models], labels, cells),
        beliefs=belief_curves(snapshots),
        spend=spend_curve(snapshots),
        decisions=[RecentDecision(one, moment_of(one.request_id)) for one in decisions[:SHOWN]],
        problem=known.problem,
    )


def _models(
    tenant: Tenant,
    known: Beliefs,
    decisions: Sequence[Decision],
    labels: Mapping[tuple[str, str, str], int],
    now: datetime,
) -> list[ModelLine]:
    """Those the engine knows and those that were weighed or answered lately, the best first."""
    answers, logged = _answers(tenant, now), _logged(decisions)
    alarms = _alarms(tenant, known)
    total = sum(found.count for found in answers.values())
    by_model: dict[str, int] = defaultdict(int)
    for (_, _, model), count in labels.items():
        by_model[model] += count
    lines = [
        ModelLine(
            name=name,
            belief=known.usual.get(name) or logged.get(name),
            labels=known.labels.get(name, by_model[name]),
            answers=answers.get(name),
            share=answers[name].count / total if name in answers else 0.0,
            alarms=alarms.get(name, ()),
        )
        for name in {*known.usual, *logged, *answers}
    ]
    return sorted(lines, key=lambda line: (-(line.belief.mean if line.belief else -1.0), line.name))


def _logged(decisions: Sequence[Decision]) -> dict[str, Belief]:
    """What was last believed of each candidate: of engines without a state of their own there is nothing else."""
    newest: dict[str, Belief] = {}
    for decision in decisions:
        for one in weighed(decision):
            newest.setdefault(one.model, Belief(one.mean, one.sd or None))
    return newest


def _alarms(tenant: Tenant, known: Beliefs) -> dict[str, list[str]]:
    alarms = {model: [told] for model, told in known.noticed.items()}
    for watch in DriftWatch.objects.filter(tenant=tenant).exclude(alarmed_at=None):
        by = "its latest ratings" if watch.reason.endswith(BY_RATINGS) else "replay"
        told = watch.reason.removesuffix(BY_RATINGS).removeprefix(f"{watch.model_name} ")
        alarms.setdefault(watch.model_name, []).append(f"was noticed by {by} on {watch.alarmed_at:%Y-%m-%d}: {told}")
    return alarms


def _answers(tenant: Tenant, now: datetime) -> dict[str, Answers]:
    with connection.cursor() as cursor:
        cursor.execute(_ANSWERS, [tenant.pk, first_id(now - ANSWERS_WITHIN), MOST_ANSWERS])
        rows = cursor.fetchall()
    return {
        model: Answers(count, 1000 * usd / priced if priced else None, median)
        for model, count, usd, priced, median in rows
    }


def _labels(tenant: Tenant) -> dict[tuple[str, str, str], int]:
    """How many were learned, by task, complexity and model."""
    with connection.cursor() as cursor:
        cursor.execute(_LABELS, [tenant.pk, MOST_LABELS])
        return {(task, complexity, model): count for task, complexity, model, count in cursor.fetchall()}
