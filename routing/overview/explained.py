"""One decision, laid out: who was weighed, who was left out and why, and what was said of the answer since."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isnan
from uuid import UUID

from gateway.rows import moment_of
from routing.models import Decision, Experiment, Feedback, Label


@dataclass(frozen=True, slots=True)
class Weighed:
    """A candidate: cost in USD per 1,000 requests like this one; latency in seconds, not a number where it was not
    known; penalty, caution, points and score in points of quality."""

    model: str
    mean: float
    sd: float
    cost: float
    latency: float
    penalty: float
    caution: float
    points: float
    propensity: float
    chosen: bool
    answered: bool
    challenger: bool

    @property
    def latency_known(self) -> bool:
        return not isnan(self.latency)

    @property
    def score(self) -> float:
        return self.mean - self.penalty - self.caution + self.points


@dataclass(frozen=True, slots=True)
class Removed:
    model: str
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    at: datetime
    candidates: Sequence[Weighed]
    removed: Sequence[Removed]
    labels: Sequence[Label]
    feedback: Sequence[Feedback]
    experiment: Experiment | None


def explained(request_id: UUID) -> Explanation | None:
    """Of a request that was routed; None of any other. At most four queries."""
    decision = Decision.objects.select_related("tenant").filter(pk=request_id).first()
    if decision is None:
        return None
    of_request = {"tenant": decision.tenant_id, "request_id": decision.request_id}
    experiments = Experiment.objects.filter(tenant=decision.tenant_id)
    return Explanation(
        decision=decision,
        at=moment_of(decision.request_id),
        candidates=weighed(decision),
        removed=[Removed(model, *why) for model, why in decision.removed.items()],
        labels=list(Label.objects.filter(**of_request).order_by("id")),
        feedback=list(Feedback.objects.filter(**of_request).order_by("rated_at")),
        experiment=experiments.filter(pk=decision.experiment_id).first() if decision.experiment_id else None,
    )


def weighed(decision: Decision) -> list[Weighed]:
    """The candidates in the order of trial, out of the columns that are logged."""
    logged = decision.candidates
    return [
        Weighed(
            model=model,
            mean=mean,
            sd=sd,
            cost=cost,
            latency=latency,
            penalty=penalty,
            caution=caution,
            points=points,
            propensity=propensity,
            chosen=model == decision.chosen,
            answered=model == decision.model_name,
            challenger=model == decision.challenger,
        )
        for model, mean, sd, cost, latency, penalty, caution, propensity, points in zip(*logged.values(), strict=True)
    ]
