"""Auto-A/B: experiments begun by themselves on cells whose two best models nobody can tell apart yet."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from typing import Any, Final
from uuid import UUID

import numpy as np
from django.db import transaction
from django.db.models import Count

from audit.actions import Action
from audit.record import Actor, record
from billing.entitlements import within_plan
from gateway.rows import first_id
from routing.decision_log import read_vector
from routing.engine import Engine
from routing.experiments.facts import Mode
from routing.experiments.ties import MOST_AT_A_TIME, Believed, CellBeliefs, Proposal, proposals
from routing.facts import RoutingFacts
from routing.features import Vector
from routing.learning import FactsOf
from routing.models import Decision, Experiment, Label, Ramp, RouterState, RoutingSettings
from routing.states import engine_of
from routing.trials.ramps import LIVE, any_concerns

logger = logging.getLogger(__name__)

ACTOR: Final = Actor("auto A/B")
TRAFFIC_OF: Final = timedelta(days=7)
TYPICAL_OF: Final = 200  # requests whose average is the cell's typical one
USUALLY_A_CANDIDATE: Final = 0.5  # share of these for which a model must have qualified
AGAIN_AFTER: Final = timedelta(days=28)  # the same two on the same cell
DECIDED_WITHIN: Final = timedelta(days=14)  # judged so often that the most labels are reached by then

Cell = tuple[str, str]


def auto_ab(now: datetime, facts_of: FactsOf) -> dict[str, Any]:
    """Begin experiments for tenants that want that. Returns for the job's record: ``tenants`` looked at, how many were
    ``begun`` and ``failed``, and what is ``told`` of them.

    ``facts_of`` tells what a tenant's router may choose from; None for one that is switched off.
    """
    facts_of = cache(facts_of)
    wanted = RoutingSettings.objects.filter(auto_ab=True, tenant__enabled=True)
    wanted, skipped = within_plan(wanted, "experiments")
    done: dict[str, Any] = {"tenants": 0, "begun": 0, "failed": 0, "told": [], **skipped}
    for key, tenant_id in list(wanted.order_by("pk").values_list("pk", "tenant_id")):
        try:
            facts = facts_of(tenant_id)
            begun = _begin_for(key, facts, now) if facts is not None else []
        except Exception:  # one tenant's trouble is not the others'
            logger.exception("experiments of tenant %s cannot be proposed", tenant_id)
            done["failed"] += 1
            continue
        done["tenants"] += 1
        done["begun"] += len(begun)
        done["told"] += [f"{row.tenant.slug}/{row.name}: {' or '.join(row.arms)}" for row in begun]
    return done


@transaction.atomic
def _begin_for(key: UUID, facts: RoutingFacts, now: datetime) -> list[Experiment]:
    """One tenant's; none where nobody judges, where there are no beliefs, or where another worker is at it."""
    locked = RoutingSettings.objects.select_for_update(skip_locked=True, of=("self",)).select_related("tenant")
    settings = locked.filter(pk=key, auto_ab=True).first()
    if settings is None or settings.engine != RoutingSettings.Engine.HIER or not facts.judges:
        return []
    tenant = settings.tenant_id
    running = list(Experiment.objects.filter(tenant=tenant, status=Experiment.Status.RUNNING))
    if len(running) >= MOST_AT_A_TIME:
        return []
    cells = [cell for cell in _cells(settings, facts, now) if not _tried_lately(tenant, cell, now)]
    mode: Mode = "shadow" if settings.shadow else "split"
    found = proposals([cell.beliefs for cell in cells], [row.design() for row in running], mode=mode)
    by_cell = {(cell.beliefs.task, cell.beliefs.complexity): cell for cell in cells}
    return [_begin(settings, by_cell[one.task, one.complexity], one, now) for one in found]


# ---------------------------------------------------------------------- cells and what is believed of them


@dataclass(frozen=True, slots=True)
class _KnownCell:
    """``usual`` is the model that answers most of it."""

    beliefs: CellBeliefs
    usual: str

    @property
    def best_two(self) -> frozenset[str]:
        ranked = sorted(self.beliefs.models, key=lambda one: (-one.mean, one.model))
        return frozenset(one.model for one in ranked[:2])


def _cells(settings: RoutingSettings, facts: RoutingFacts, now: datetime) -> list[_KnownCell]:
    """The tenant's cells with traffic. Left out: cells on their way to a model, as they go by that; and cells in which
    neither of the best two answers most requests, because a test would change who serves them."""
    tenant = settings.tenant_id
    ramps = list(Ramp.objects.filter(tenant=tenant, status__in=LIVE))
    engine = engine_of(RouterState.objects.filter(tenant=tenant, engine=settings.engine).first(), facts)
    router = _Router(tenant, engine, facts, _labels(tenant), now)
    found = []
    for (task, complexity), by_model in _traffic(tenant, now).items():
        if any_concerns(ramps, task, complexity):
            continue
        beliefs = CellBeliefs(task, complexity, tuple(router.believed(task, complexity)), by_model.total())
        cell = _KnownCell(beliefs, by_model.most_common(1)[0][0])
        if cell.usual in cell.best_two:
            found.append(cell)
    return found


def _traffic(tenant_id: UUID, now: datetime) -> dict[Cell, Counter[str]]:
    """Answered requests of the last days by cell and model."""
    answered = Decision.objects.filter(
        tenant=tenant_id, status=200, request_id__gte=first_id(now - TRAFFIC_OF), request_id__lt=first_id(now)
    ).exclude(model_name="")
    traffic: dict[Cell, Counter[str]] = {}
    rows = answered.values_list("task", "complexity", "model_name").annotate(requests=Count("request_id"))
    for task, complexity, model, requests in rows.order_by("task", "complexity", "model_name"):
        traffic.setdefault((task, complexity), Counter())[model] = requests
    return traffic


def _labels(tenant_id: UUID) -> Mapping[tuple[str, str, str], int]:
    """How many there are by task, complexity and model."""
    rows = Label.objects.filter(tenant=tenant_id, left_out="").values_list("task", "complexity", "model_name")
    counted = rows.annotate(labels=Count("id")).order_by()
    return {(task, complexity, model): labels for task, complexity, model, labels in counted}


@dataclass(frozen=True, slots=True)
class _Router:
    """One tenant's, and how many ratings there are by task, complexity and model."""

    tenant_id: UUID
    engine: Engine
    facts: RoutingFacts
    labels: Mapping[tuple[str, str, str], int]
    now: datetime

    def believed(self, task: str, complexity: str) -> list[Believed]:
        """Of the models that usually qualify, for the cell's typical request."""
        latest = Decision.objects.filter(
            tenant=self.tenant_id, task=task, complexity=complexity,
            request_id__gte=first_id(self.now - TRAFFIC_OF), request_id__lt=first_id(self.now),
        ).order_by("-request_id")  # fmt: skip
        rows = list(latest.values_list("vector", "qualified")[:TYPICAL_OF])
        typical = _average([read_vector(bytes(vector)) for vector, _ in rows], self.engine.space.size)
        if typical is None:
            return []
        qualified = Counter(model for _, models in rows for model in models)
        means, sds = self.engine.posterior.combined().expected(typical)
        return [
            Believed(model, float(mean), float(sd), self.labels.get((task, complexity, model), 0))
            for model, mean, sd in zip(self.engine.models, means, sds, strict=True)
            if model in self.facts.contestants and qualified[model] >= USUALLY_A_CANDIDATE * len(rows)
        ]


def _average(vectors: Collection[Vector], size: int) -> Vector | None:
    """Of those that are of the present kind; None without any."""
    usable = [vector for vector in vectors if len(vector) == size]
    average: Vector | None = np.mean(usable, axis=0) if usable else None
    return average


def _tried_lately(tenant_id: UUID, cell: _KnownCell, now: datetime) -> bool:
    """Whether the same two were compared on this cell already: nothing has become known since that a test of theirs
    would add to."""
    ended = Experiment.objects.filter(
        tenant=tenant_id,
        task=cell.beliefs.task,
        complexity=cell.beliefs.complexity,
        status=Experiment.Status.ENDED,
        ended_at__gt=now - AGAIN_AFTER,
    )
    return any(cell.best_two <= set(row.arms) for row in ended)


# ---------------------------------------------------------------------- beginning


def _begin(settings: RoutingSettings, cell: _KnownCell, proposal: Proposal, now: datetime) -> Experiment:
    """The model that serves the cell is the control: what callers get stays as it is, as far as it can."""
    row = Experiment(
        tenant=settings.tenant,
        name=_name(settings.tenant_id, proposal, now),
        task=proposal.task,
        complexity=proposal.complexity,
        arms=sorted(proposal.arms, key=lambda arm: arm != cell.usual),
        mode=proposal.mode,
        automatic=True,
    )
    expected = cell.beliefs.requests * (DECIDED_WITHIN / TRAFFIC_OF)
    row.judge_rate = min(1.0, max(settings.judge_rate, row.most_labels / expected))
    row.full_clean()
    row.save()
    changes = {"arms": [[], row.arms], "mode": ["", str(row.mode)], "reason": ["", proposal.reason]}
    record(ACTOR, Action.EXPERIMENT_CREATED, row, tenant=settings.tenant, changes=changes)
    return row


def _name(tenant_id: UUID, proposal: Proposal, now: datetime) -> str:
    wanted = f"auto {proposal.task}/{proposal.complexity} {now:%Y-%m-%d}"
    taken = set(Experiment.objects.filter(tenant=tenant_id, name__startswith=wanted).values_list("name", flat=True))
    names = (wanted if number == 1 else f"{wanted} ({number})" for number in count(1))
    return next(name for name in names if name not in taken)
