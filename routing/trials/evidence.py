"""What an experiment has shown: new answers and judgements, taken in from where the last look ended."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db.models import Q

from billing.models import Attempt, Settlement
from gateway.rows import first_id
from routing.experiments import Experiment as Design
from routing.experiments.evidence import Evidence
from routing.models import Decision, Experiment, ExperimentEvidence
from routing.trials.observed import (
    CLOCKS_DIFFER,
    Judged,
    Outcome,
    answers,
    judgements,
    outcome_of,
    settled_until,
    value_of,
)

_COMPARED: Final = "compared"


class DesignChanged(Exception):
    """The experiment compares something else than its evidence is about."""


@dataclass(slots=True)
class News:
    """What one look has added."""

    labels: int = 0
    answers: int = 0
    to_save: bool = False


def evidence_of(experiment: Experiment, kept: ExperimentEvidence) -> Evidence:
    """What was seen up to the last look. Raises DesignChanged, or KeyError or ValueError for what cannot be read."""
    design = experiment.design()
    if not kept.state:
        return Evidence.begin(design)
    if kept.state[_COMPARED] != _compared(design):
        raise DesignChanged
    return Evidence.from_json(design, kept.state)


def take_in(experiment: Experiment, kept: ExperimentEvidence, evidence: Evidence, now: datetime) -> News:
    """Bring ``evidence`` and the row that keeps it up to ``now``. The row is not saved."""
    news, begun, until = News(), first_id(experiment.created_at - CLOCKS_DIFFER), settled_until(now)
    ours = Q(tenant=experiment.tenant_id, experiment_id=experiment.pk)
    for batch in answers(ours, kept.seen_id or begun, until):
        for arm, unit, outcome in _outcomes(evidence.experiment, experiment.tenant_id, batch):
            evidence.add_answer(
                arm,
                unit,
                cost_usd=outcome.cost_usd,
                latency_ms=outcome.latency_ms,
                failed=outcome.failed,
                refused=outcome.refused,
            )
        kept.seen_id = batch[-1].request_id
        news.answers += len(batch)
    take_in_labels = _take_in_pairs if experiment.mode == Experiment.Mode.SHADOW else _take_in_single
    for position, judged in judgements(experiment.tenant_id, ours, kept.position, begun, until):
        news.labels += take_in_labels(evidence, judged)
        kept.position, news.to_save = position, True
    news.to_save = news.to_save or news.answers > 0 or not kept.state
    if news.to_save:
        kept.state = evidence.to_json() | {_COMPARED: _compared(evidence.experiment)}
    return news


def _compared(design: Design) -> dict[str, Any]:
    return {
        "arms": list(design.arms),
        "shares": list(design.shares),
        "mode": str(design.mode),
        "sticky": str(design.sticky),
    }


def _outcomes(design: Design, tenant_id: UUID, batch: list[Decision]) -> Iterator[tuple[int, str, Outcome]]:
    """(arm, what sticks to it, how it turned out), of the answers that were served and of those beside them."""
    beside = _shadow_outcomes(tenant_id, batch) if design.mode == "shadow" else {}
    for decision in batch:
        unit = decision.unit or str(decision.request_id)
        if decision.arm in design.arms:
            yield design.arms.index(decision.arm), unit, outcome_of(decision, decision.arm)
        shadow = beside.get((decision.request_id, decision.challenger))
        if shadow is not None and decision.challenger in design.arms:
            yield design.arms.index(decision.challenger), unit, shadow


def _shadow_outcomes(tenant_id: UUID, batch: list[Decision]) -> dict[tuple[UUID, str], Outcome]:
    """By request and model: what the ledger knows of calls in the shadow. A call that was tried again failed only if
    it failed to the last."""
    asked = [decision.request_id for decision in batch if decision.judged and decision.challenger]
    lines = Settlement.objects.filter(
        tenant=tenant_id,
        attempt__request_id__in=asked,
        attempt__purpose=Attempt.Purpose.SHADOW,
        attempt_id__gte=batch[0].request_id,
        attempt__id__gte=batch[0].request_id,
    )
    found: dict[tuple[UUID, str], Outcome] = {}
    for line in lines.select_related("attempt__model").order_by("attempt_id"):
        model = line.attempt.model
        if model is None:
            continue
        key = (line.attempt.request_id, model.name)
        failed = line.outcome != Settlement.Outcome.SETTLED
        earlier = found.get(key)
        cost = None if line.cost_usd is None else float(line.cost_usd)
        if earlier is not None and earlier.cost_usd is not None:
            cost = earlier.cost_usd + (cost or 0.0)
        latency_ms = (line.ended_at - line.attempt.started_at).total_seconds() * 1000
        found[key] = Outcome(cost, None if failed else latency_ms, failed=failed, refused=False)
    return found


def _take_in_single(evidence: Evidence, judged: Iterable[Judged]) -> int:
    """Of a split experiment. What a fallback answered says nothing of the arm."""
    taken = 0
    arms = evidence.experiment.arms
    for one in judged:
        decision = one.decision
        if decision.arm in arms and one.label.model_name == decision.arm == decision.model_name:
            unit = decision.unit or str(decision.request_id)
            taken += evidence.add_label(arms.index(decision.arm), unit, value_of(one.label))
    return taken


def _take_in_pairs(evidence: Evidence, judged: Iterable[Judged]) -> int:
    """Of a shadow experiment. A pair counts at the place of its later label, wherever a look may have ended."""
    taken = 0
    arms = evidence.experiment.arms
    for one in judged:
        decision = one.decision
        control, challenger = (one.rated.get(model) for model in (arms[0], decision.challenger))
        if control is None or challenger is None or decision.challenger not in arms[1:]:
            continue
        later = max(control, challenger, key=lambda label: label.position or 0)
        if one.label.pk != later.pk or not (control.paired and challenger.paired):
            continue
        unit = decision.unit or str(decision.request_id)
        place = arms.index(decision.challenger)
        taken += evidence.add_pair(place, unit, value_of(control), value_of(challenger))
    return taken
