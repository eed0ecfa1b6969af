"""Which cells could go to a cheaper model, by what was logged of the last four weeks."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from statistics import fmean
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Max

from audit.actions import Action
from audit.record import record
from billing.entitlements import within_plan
from gateway.rows import first_id
from routing.decision_log import read_vector
from routing.evaluation import LoggedRequest, Observation, always, compare
from routing.facts import RoutingFacts
from routing.learning import FactsOf
from routing.migration import (
    CHEAPER_BY,
    LEAST_EFFECTIVE,
    STEPS,
    Alternative,
    Candidate,
    CellFacts,
    QualityGap,
    propose,
)
from routing.models import Decision, Experiment, Label, Ramp, RoutingSettings
from routing.moving.seen import Seen
from routing.moving.stepping import ACTOR
from routing.trials.observed import ENGINES, RATED_BY, settled_until, value_of
from routing.trials.ramps import LIVE, OfCell, any_concerns

logger = logging.getLogger(__name__)

WINDOW: Final = timedelta(days=28)
MONTH: Final = timedelta(days=30)
AGAIN_AFTER: Final = timedelta(days=28)  # on a cell that was rolled back
LEAST_REQUESTS: Final = 1_000  # of a cell's usual model in the window: with fewer, no step of a ramp would ever be over
COSTS_OF: Final = 500  # latest requests by which the candidates' costs are compared
MOST_LABELS: Final = 8_000  # latest of a cell

_BATCH: Final = 2_000


def begin_ramps(now: datetime, facts_of: FactsOf) -> dict[str, Any]:
    """Begin migrations for tenants that want that. Returns ``tenants`` looked at, how many were ``begun`` and
    ``failed``, and what is ``told`` of them."""
    facts_of = cache(facts_of)
    wanted = RoutingSettings.objects.filter(auto_migrate=True, tenant__enabled=True)
    wanted, skipped = within_plan(wanted, "experiments")
    done: dict[str, Any] = {"tenants": 0, "begun": 0, "failed": 0, "told": [], **skipped}
    for key, tenant_id in list(wanted.order_by("pk").values_list("pk", "tenant_id")):
        try:
            facts = facts_of(tenant_id)
            begun = _begin_for(key, facts, now) if facts is not None else []
        except Exception:  # one tenant's trouble is not the others'
            logger.exception("migrations of tenant %s cannot be proposed", tenant_id)
            done["failed"] += 1
            continue
        done["tenants"] += 1
        done["begun"] += len(begun)
        done["told"] += [f"{ramp.tenant.slug}/{ramp}: {ramp.reason}" for ramp in begun]
    return done


@transaction.atomic
def _begin_for(key: UUID, facts: RoutingFacts, now: datetime) -> list[Ramp]:
    """One tenant's; none where another worker is at it."""
    locked = RoutingSettings.objects.select_for_update(skip_locked=True, of=("self",)).select_related("tenant")
    settings = locked.filter(pk=key, auto_migrate=True).first()
    if settings is None:
        return []
    candidates = [propose(cell) for cell in _cells(settings.tenant_id, facts, now)]
    return [_begin(settings, candidate, now) for candidate in candidates if candidate is not None]


def _cells(tenant_id: UUID, facts: RoutingFacts, now: datetime) -> Iterator[CellFacts]:
    """Those with enough traffic that nobody has taken in hand."""
    ramps = Ramp.objects.filter(tenant=tenant_id)
    rolled_back = ramps.filter(
        source=Ramp.Source.MIGRATION, status=Ramp.Status.ROLLED_BACK, since__gt=now - AGAIN_AFTER
    )
    experiments = Experiment.objects.filter(tenant=tenant_id, status=Experiment.Status.RUNNING)
    taken: list[OfCell] = [*ramps.filter(status__in=LIVE), *rolled_back, *experiments]
    for usual in _usual_models(tenant_id, now):
        if usual.requests >= LEAST_REQUESTS and not any_concerns(taken, usual.task, usual.complexity):
            cell = _cell(tenant_id, facts, usual, now)
            if cell is not None:
                yield cell


@dataclass(frozen=True, slots=True)
class _Usual:
    """The model that the router chooses most often in a cell, and how often."""

    task: str
    complexity: str
    model: str
    requests: int


def _usual_models(tenant_id: UUID, now: datetime) -> Collection[_Usual]:
    """One for each cell."""
    chosen = Decision.objects.filter(
        tenant=tenant_id,
        request_id__gte=first_id(now - WINDOW),
        request_id__lt=settled_until(now),
        engine__in=ENGINES,
        explored=False,
        status=200,
    )
    rows = chosen.values_list("task", "complexity", "chosen").annotate(requests=Count("request_id"))
    usual: dict[tuple[str, str], _Usual] = {}
    for row in rows.order_by("task", "complexity", "-requests", "chosen"):
        usual.setdefault(row[:2], _Usual(*row))
    return usual.values()


def _cell(tenant_id: UUID, facts: RoutingFacts, usual: _Usual, now: datetime) -> CellFacts | None:
    """None where the usual model is unknown or has no price."""
    priced = {
        name for name, one in facts.contestants.items() if one.input_price is not None and one.output_price is not None
    }
    costs = _expected_costs(tenant_id, usual, now)
    if usual.model not in priced & costs.keys():
        return None
    cheaper = {name for name in priced & costs.keys() if costs[name] <= (1 - CHEAPER_BY) * costs[usual.model]}
    logged = _logged(tenant_id, usual, now) if cheaper else []
    alternatives = []
    for name in sorted(cheaper):
        rows = [row for row in logged if name in row.means]
        if len(rows) >= LEAST_EFFECTIVE:
            gap = QualityGap.of_comparison(compare(rows, always(name), always(usual.model)))
            alternatives.append(Alternative(name, costs[name], gap))
    a_month = round(usual.requests * (MONTH / WINDOW))
    return CellFacts(usual.task, usual.complexity, usual.model, costs[usual.model], a_month, tuple(alternatives))


def _expected_costs(tenant_id: UUID, usual: _Usual, now: datetime) -> dict[str, float]:
    """USD per 1,000 of the latest requests by candidate: as foretold for the very same requests, as what each has
    really answered may have been other ones. Of those that mostly qualify."""
    latest = Decision.objects.filter(
        tenant=tenant_id, task=usual.task, complexity=usual.complexity, chosen=usual.model, engine__in=ENGINES,
        request_id__gte=first_id(now - WINDOW), request_id__lt=settled_until(now),
    ).order_by("-request_id")  # fmt: skip
    costs: dict[str, list[float]] = {}
    rows = [
        weighed
        for decision in latest.only("chosen", "qualified", "weighed")[:COSTS_OF]
        if (weighed := decision.candidates)
    ]
    for weighed in rows:
        for model, cost in zip(weighed["model"], weighed["cost"], strict=True):
            costs.setdefault(model, []).append(cost)
    return {model: fmean(found) for model, found in costs.items() if 2 * len(found) >= len(rows)}


# ---------------------------------------------------------------------- judged requests as the estimate wants them


def _logged(tenant_id: UUID, usual: _Usual, now: datetime) -> list[LoggedRequest]:
    """The cell's judged requests that the router would give to its usual model."""
    labels = Label.objects.filter(
        tenant=tenant_id, task=usual.task, complexity=usual.complexity, rater__in=RATED_BY,
        id__gte=first_id(now - WINDOW), id__lt=settled_until(now),
    ).order_by("-id")  # fmt: skip
    values: dict[UUID, dict[str, float]] = {}
    for label in reversed(list(labels[:MOST_LABELS])):
        values.setdefault(label.request_id, {}).setdefault(label.model_name, value_of(label))
    rows = [
        _logged_request(decision, values[decision.request_id], usual.model)
        for decision in _decisions(tenant_id, list(values))
    ]
    usable = [row for row in rows if row is not None]
    width = len(usable[-1].vector) if usable else 0  # features of a former kind cannot be compared
    return [row for row in usable if len(row.vector) == width]


def _decisions(tenant_id: UUID, requests: Sequence[UUID]) -> Iterator[Decision]:
    for start in range(0, len(requests), _BATCH):
        some = Decision.objects.filter(tenant=tenant_id, request_id__in=requests[start : start + _BATCH])
        yield from some.order_by("request_id")


def _logged_request(decision: Decision, values: Mapping[str, float], current: str) -> LoggedRequest | None:
    """None where another model would answer, or where nothing was observed with a known probability."""
    weighed = decision.candidates
    return logged_request(decision, values) if weighed and best_of(weighed) == current else None


def logged_request(decision: Decision, values: Mapping[str, float]) -> LoggedRequest | None:
    """A judged request as the estimate wants it; ``values`` are its judgements by model. None where nothing was
    observed with a known probability."""
    weighed = decision.candidates
    if not weighed or not 0 < decision.judge_probability <= 1:
        return None
    means = dict(zip(weighed["model"], weighed["mean"], strict=True))
    odds = {decision.chosen: decision.propensity if decision.model_name == decision.chosen else None}
    if decision.challenger:
        odds[decision.challenger] = decision.challenger_propensity
    observed = tuple(
        Observation(model, probability, values[model])
        for model, probability in odds.items()
        if model in values and model in means and probability is not None and 0 < probability <= 1
    )
    if not observed:
        return None
    return LoggedRequest(read_vector(bytes(decision.vector)), means, observed, decision.judge_probability)


def best_of(weighed: Mapping[str, Sequence[Any]]) -> str:
    """The candidate with the highest score: who was tried first may have been drawn."""
    columns = ("mean", "penalty", "caution", "points", "model")
    scored = zip(*(weighed[name] for name in columns), strict=True)
    return str(max((mean - lost - caution + extra, model) for mean, lost, caution, extra, model in scored)[1])


# ---------------------------------------------------------------------- beginning


def _begin(settings: RoutingSettings, candidate: Candidate, now: datetime) -> Ramp:
    last = Label.objects.filter(tenant=settings.tenant_id).aggregate(last=Max("position"))["last"] or 0
    gap = candidate.gap
    ramp = Ramp(
        tenant=settings.tenant,
        task=candidate.task,
        complexity=candidate.complexity,
        from_model=candidate.current,
        to_model=candidate.successor,
        percent=STEPS[0],
        source=Ramp.Source.MIGRATION,
        reason=candidate.reason[:500],
        evidence={
            "proposal": {
                "reason": candidate.reason,
                "cheaper_by": candidate.cheaper_by,
                "gap": [gap.estimate, gap.low, gap.high],
                "effective_sample_size": gap.effective_sample_size,
                "expected_saving_usd": candidate.expected_saving_usd,
            },
            "begun_id": str(first_id(now)),
            "steps": [],
            "seen": Seen.begin(STEPS[0], first_id(now), last).to_json(),
        },
    )
    ramp.full_clean()
    ramp.save()
    ramp.since = now
    ramp.save(update_fields=("since",))
    changes = {"from_model": ["", ramp.from_model], "to_model": ["", ramp.to_model], "percent": [0, ramp.percent]}
    record(ACTOR, Action.RAMP_CREATED, ramp, tenant=settings.tenant, changes=changes | {"reason": ["", ramp.reason]})
    return ramp
