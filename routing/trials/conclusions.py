"""How an experiment ends, and what follows."""

import logging
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from audit.actions import Action
from audit.record import Actor, record
from billing.entitlements import within_plan
from routing.experiments.evidence import Evidence
from routing.experiments.guards import STANDARD_GUARDS, Guard
from routing.experiments.verdicts import Conclusion, Limits, decide
from routing.models import Experiment, ExperimentEvidence, Ramp
from routing.trials.evidence import DesignChanged, News, evidence_of, take_in
from routing.trials.ramps import LIVE, end_ramp

logger = logging.getLogger(__name__)

ACTOR: Final = Actor("experiments")
MOST_REASON: Final = 500  # characters that a row has room for

_CHANGED: Final = "its arms, shares or mode were changed while it ran, so nothing is proven"


class NotRunning(ValueError):
    """The experiment has ended already."""


def evaluate_experiments(now: datetime) -> dict[str, Any]:
    """Look at every running experiment, and end those that are decided. Returns for the job's record: ``labels`` and
    ``answers`` taken in, how many ``ended`` and ``failed``, and what is ``told`` of them. Those whose tenant's plan
    leaves experiments out decide nothing, and are passed over.

    What one look takes in and concludes is one transaction: a run that dies leaves whole looks behind. One experiment
    at a time is looked at by one worker; a second one passes it over.
    """
    running = Experiment.objects.filter(status=Experiment.Status.RUNNING, tenant__enabled=True)
    running, skipped = within_plan(running, "experiments")
    facts: dict[str, Any] = {"labels": 0, "answers": 0, "ended": 0, "failed": 0, "told": [], **skipped}
    for key in list(running.order_by("pk").values_list("pk", flat=True)):
        try:
            looked = _look(key, now)
        except Exception:  # one tenant's trouble is not the others'
            logger.exception("experiment %s cannot be evaluated", key)
            facts["failed"] += 1
            continue
        if looked is not None:
            row, news = looked
            facts["labels"] += news.labels
            facts["answers"] += news.answers
            if row.status == Experiment.Status.ENDED:
                facts["ended"] += 1
                facts["told"].append(f"{row.tenant.slug}/{row.name}: {row.reason}")
    return facts


def conclusion_of(experiment: Experiment, now: datetime) -> Conclusion:
    """Where an experiment stands by what was taken in so far; ``data`` has the figures by arm. Of an ended one the
    reason is the one it was ended for."""
    kept = ExperimentEvidence.objects.filter(experiment=experiment).first() or _nothing(experiment)
    try:
        found = _decided(experiment, evidence_of(experiment, kept), now)
    except DesignChanged:
        found = Conclusion("stop", None, _CHANGED)
    if experiment.status == Experiment.Status.ENDED:
        return Conclusion(found.action, experiment.winner or None, experiment.reason, found.data)
    return found


@transaction.atomic
def stop_experiment(experiment: Experiment, actor: Actor, now: datetime, reason: str = "stopped by hand") -> None:
    """End an experiment without a winner. Raises NotRunning."""
    row = Experiment.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=experiment.pk)
    if row.status != Experiment.Status.RUNNING:
        raise NotRunning(f"The experiment '{row.name}' has ended already.")
    _end(row, Conclusion("stop", None, reason), actor, now)
    experiment.refresh_from_db()


@transaction.atomic
def _look(key: UUID, now: datetime) -> tuple[Experiment, News] | None:
    """None where another worker is at it or has ended it."""
    locked = Experiment.objects.select_for_update(skip_locked=True, of=("self",)).select_related("tenant")
    row = locked.filter(pk=key, status=Experiment.Status.RUNNING).first()
    if row is None:
        return None
    kept = ExperimentEvidence.objects.filter(experiment=row).first() or _nothing(row)
    try:
        evidence = evidence_of(row, kept)
    except DesignChanged:
        _end(row, Conclusion("stop", None, _CHANGED), ACTOR, now)
        return row, News()
    news = take_in(row, kept, evidence, now)
    if news.to_save:
        kept.save()
    conclusion = _decided(row, evidence, now)
    if conclusion.action != "continue":
        _end(row, conclusion, ACTOR, now)
    return row, news


def _nothing(experiment: Experiment) -> ExperimentEvidence:
    return ExperimentEvidence(tenant_id=experiment.tenant_id, experiment=experiment)


def _decided(experiment: Experiment, evidence: Evidence, now: datetime) -> Conclusion:
    guards = tuple(Guard(**guard) for guard in experiment.guards) or STANDARD_GUARDS
    limits = Limits(experiment.most_labels, experiment.most_days, guards)
    days = ((experiment.ended_at or now) - experiment.created_at) / timedelta(days=1)
    return decide(experiment.design(), evidence, limits, days=days)


def _end(row: Experiment, conclusion: Conclusion, actor: Actor, now: datetime) -> None:
    reason = conclusion.reason
    if conclusion.action == "promote" and conclusion.winner and row.promotes:
        reason = _promoted(row, conclusion.winner, reason, now)
    row.status, row.ended_at = Experiment.Status.ENDED, now
    row.winner, row.reason = conclusion.winner or "", reason[:MOST_REASON]
    row.save(update_fields=("status", "ended_at", "winner", "reason", "updated_at"))
    changes = {"status": ["running", "ended"], "winner": ["", row.winner], "reason": ["", row.reason]}
    record(actor, Action.EXPERIMENT_ENDED, row, tenant=row.tenant, changes=changes)


def _promoted(row: Experiment, winner: str, reason: str, now: datetime) -> str:
    """The winner gets the cell, unless somebody has said by hand who has it. Returns the reason with what was done."""
    former = Ramp.objects.select_for_update().filter(
        tenant=row.tenant_id, task=row.task, complexity=row.complexity, status__in=LIVE
    )
    for ramp in former:
        if ramp.source == Ramp.Source.HAND:
            return f"not promoted, as this cell was given to {ramp.to_model} by hand; {reason}"
        end_ramp(ramp, ACTOR, f"the experiment '{row.name}' has found {winner} for this cell", now)
    begun = Ramp(
        tenant=row.tenant,
        task=row.task,
        complexity=row.complexity,
        to_model=winner,
        source=Ramp.Source.EXPERIMENT,
        status=Ramp.Status.DONE,
        reason=f"won the experiment '{row.name}': {reason}"[:MOST_REASON],
        evidence={"experiment": str(row.pk)},
    )
    begun.full_clean()
    begun.save()
    Ramp.objects.filter(pk=begun.pk).update(since=now)
    changes = {"to_model": ["", winner], "percent": [0, begun.percent], "source": ["", begun.source]}
    record(ACTOR, Action.RAMP_CREATED, begun, tenant=row.tenant, changes=changes)
    return reason
