"""What other ways to choose would have been worth on a tenant's own judged requests: estimated from the log alone,
before anything is switched (:mod:`routing.evaluation`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean
from typing import Final
from uuid import UUID

from gateway.rows import first_id
from routing.evaluation import Estimate, LoggedRequest, Policy, compare, evaluate
from routing.models import Decision, Label
from routing.moving.proposing import best_of, logged_request
from routing.trials.observed import RATED_BY, settled_until, value_of
from tenants.models import Tenant

MOST_REQUESTS: Final = 4_000  # the latest judged ones
FEWEST: Final = 20  # judged requests, below which an estimate would tell nothing
CANDIDATE_OF: Final = 0.5  # of the requests: the least that a single model must have been able to answer
ROUTER: Final = "the router"


@dataclass(frozen=True, slots=True)
class Worth:
    """One way to choose: its mean quality (0-1), how much better than the router it is (None for the router itself),
    what 1,000 of these requests would have cost, and how many labels of its own would tell as much."""

    policy: str
    quality: Estimate
    ahead: Estimate | None
    usd_per_1000: float
    effective_sample_size: float


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judged request, the model the router puts first for it, and what each candidate was expected to cost."""

    logged: LoggedRequest
    first: str
    costs: Mapping[str, float]


def worths(tenant: Tenant, now: datetime, days: int) -> tuple[int, list[Worth]]:
    """How many judged requests of the last ``days`` there are to tell by, and what they tell: of the router's own first
    choices, then of each model alone, the best first. Where a model could not have answered, the router's choice
    stands in for it. Nothing is told by fewer than ``FEWEST`` requests."""
    judged = _judged(tenant, now, days)
    if len(judged) < FEWEST:
        return len(judged), []
    rows = [one.logged for one in judged]
    router = _policy({id(one.logged): one.first for one in judged})
    own = evaluate(rows, router)
    usd = fmean(one.costs[one.first] for one in judged)
    found = [Worth(ROUTER, own.doubly_robust, None, usd, own.effective_sample_size)]
    others = [_alone(model, judged, rows, router) for model in _known(judged)]
    return len(judged), [*found, *sorted(others, key=lambda one: -one.quality.value)]


def _alone(model: str, judged: Sequence[_Judged], rows: Sequence[LoggedRequest], router: Policy) -> Worth:
    chosen = {id(one.logged): model if model in one.costs else one.first for one in judged}
    found = compare(rows, _policy(chosen), router)
    usd = fmean(one.costs[chosen[id(one.logged)]] for one in judged)
    return Worth(f"always {model}", found.a.doubly_robust, found.difference, usd, found.a.effective_sample_size)


def _policy(chosen: Mapping[int, str]) -> Policy:
    return lambda request: {chosen[id(request)]: 1.0}


def _known(judged: Sequence[_Judged]) -> list[str]:
    """Models that were candidates of enough of the requests."""
    names = sorted({model for one in judged for model in one.costs})
    return [name for name in names if sum(name in one.costs for one in judged) >= CANDIDATE_OF * len(judged)]


def _judged(tenant: Tenant, now: datetime, days: int) -> list[_Judged]:
    labels = Label.objects.filter(
        tenant=tenant, rater__in=RATED_BY, id__gte=first_id(now - timedelta(days=days)), id__lt=settled_until(now)
    )
    values: dict[UUID, dict[str, float]] = {}
    for label in reversed(list(labels.order_by("-id")[: 2 * MOST_REQUESTS])):  # a pair has two
        values.setdefault(label.request_id, {}).setdefault(label.model_name, value_of(label))
    decisions = Decision.objects.filter(tenant=tenant, request_id__in=list(values)).order_by("request_id")
    found = [_of(decision, values[decision.request_id]) for decision in decisions]
    usable = [one for one in found if one is not None][-MOST_REQUESTS:]
    width = len(usable[-1].logged.vector) if usable else 0  # features of a former kind cannot be compared
    return [one for one in usable if len(one.logged.vector) == width]


def _of(decision: Decision, values: Mapping[str, float]) -> _Judged | None:
    logged = logged_request(decision, values)
    if logged is None:
        return None
    weighed = decision.candidates
    return _Judged(logged, best_of(weighed), dict(zip(weighed["model"], weighed["cost"], strict=True)))
