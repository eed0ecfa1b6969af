"""What the logs say of answers, as of a quarter of an hour ago.

A request's row bears the time of its beginning and is written at its end, which can be ten minutes later. Counting rows
as they come, in the order of their keys, would pass over the slow ones for good; so nothing counts before the slowest
must have been written, and no judgement before the answers of its time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final
from uuid import UUID

from django.db.models import Q, QuerySet

from gateway.rows import first_id
from routing.models import Decision, Label

SETTLED_AFTER: Final = timedelta(minutes=15)
RATED_BY: Final = (Label.Rater.JUDGE, Label.Rater.RULE)
"""Whose labels are compared: everybody else chooses what to rate, and may choose by what was answered."""

ENGINES: Final = ("hier", "ema", "fixed")
BATCH: Final = 2_000
MOST_ANSWERS: Final = 200_000  # of one experiment or ramp, a run
MOST_LABELS: Final = 20_000
CLOCKS_DIFFER: Final = timedelta(minutes=5)

_OK: Final = 200
_COLUMNS: Final = (
    "request_id", "engine", "chosen", "experiment_id", "arm", "unit", "judged", "challenger", "model_name", "status",
    "finish_reason", "cost_usd", "latency_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer turned out, besides its quality; None is not known, or another model's."""

    cost_usd: float | None
    latency_ms: float | None
    failed: bool
    refused: bool


def settled_until(now: datetime) -> UUID:
    """The key before which everything has been written."""
    return first_id(now - SETTLED_AFTER)


def outcome_of(decision: Decision, model: str) -> Outcome:
    """How a request turned out that ``model`` was to answer: it failed as well where another had to take its place."""
    answered = decision.status == _OK and decision.model_name == model
    replaced = decision.status == _OK and decision.model_name not in ("", model)
    return Outcome(
        cost_usd=float(decision.cost_usd) if answered and decision.cost_usd is not None else None,
        latency_ms=decision.latency_ms if answered else None,
        failed=replaced or decision.status >= 500,
        refused=answered and decision.finish_reason == "content_filter",
    )


def answers(which: Q, after: UUID, until: UUID) -> Iterator[list[Decision]]:
    """Decisions of the keys between, in their order, some at a time; a long backlog takes several runs."""
    seen = 0
    while seen < MOST_ANSWERS:
        rows = Decision.objects.filter(which, request_id__gt=after, request_id__lt=until).order_by("request_id")
        batch = list(rows.only(*_COLUMNS)[:BATCH])
        if not batch:
            return
        yield batch
        after, seen = batch[-1].request_id, seen + len(batch)


@dataclass(frozen=True, slots=True)
class Judged:
    """The first label of an answer, the decision it is about, and by model the first labels of all answers to that
    request: this one and those beside it."""

    label: Label
    decision: Decision
    rated: Mapping[str, Label]


def judgements(
    tenant_id: UUID, which: Q, position: int, since: UUID, until: UUID
) -> Iterator[tuple[int, list[Judged]]]:
    """What judges and rules said of the answers to ``which`` requests in labels after ``position``, in their order,
    some at a time; with each lot the position up to which it goes. ``since`` and ``until`` bound the labels' keys."""
    seen = 0
    ours = Label.objects.filter(tenant=tenant_id, rater__in=RATED_BY)
    while seen < MOST_LABELS:
        rows = ours.filter(position__gt=position, id__gte=since).order_by("position")
        batch = list(takewhile(lambda label: label.pk < until, rows.defer("vector")[:BATCH]))
        if not batch:
            return
        position, seen = batch[-1].position or position, seen + len(batch)
        yield position, _of_first_labels(ours, which, batch)


def value_of(label: Label) -> float:
    """A label's value within 0-1."""
    return min(max(label.value, 0.0), 1.0)


def _of_first_labels(ours: QuerySet[Label], which: Q, batch: Sequence[Label]) -> list[Judged]:
    requests = {label.request_id for label in batch}
    decisions = Decision.objects.filter(which, request_id__in=requests).only(*_COLUMNS)
    decided = {decision.request_id: decision for decision in decisions}
    rated: dict[UUID, dict[str, Label]] = {}
    placed = ours.filter(request_id__in=decided.keys(), position__isnull=False).defer("vector")
    for label in placed.order_by("position"):
        rated.setdefault(label.request_id, {}).setdefault(label.model_name, label)
    return [
        Judged(label, decided[label.request_id], rated[label.request_id])
        for label in batch
        if label.request_id in decided and rated[label.request_id][label.model_name].pk == label.pk
    ]
