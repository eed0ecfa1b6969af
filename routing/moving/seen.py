"""What was seen since a ramp got its present percentage, and how that is kept with the ramp."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.db.models import Q

from routing.experiments.sequential import SplitComparison
from routing.experiments.totals import ArmTotals
from routing.migration import LedgerTotals, QualityGap, RampEvidence, saving
from routing.models import Decision, Ramp
from routing.moving.ledger import paid, together
from routing.trials.observed import ENGINES, Judged, answers, judgements, outcome_of, settled_until, value_of

ALL: Final = 100
MOST_TOGETHER: Final = 3  # judgements of those that stayed that meet one of those that moved
MOST_BEFORE: Final = 1_000  # judgements of the model of before that are kept for when nobody stays
NOTHING: Final = LedgerTotals(0, Decimal(0))


@dataclass(slots=True)
class Seen:
    """Of one step. ``control`` are requests that stayed; at 100 % nothing stays, and it is what the step before saw.
    ``stayed_values`` are the latest judgements of those that stayed."""

    control: ArmTotals
    moved: ArmTotals
    quality: SplitComparison
    control_paid: LedgerTotals
    moved_paid: LedgerTotals
    seen_id: UUID
    position: int
    stayed_values: list[float] = field(default_factory=list)

    @classmethod
    def begin(cls, percent: int, seen_id: UUID, position: int) -> "Seen":
        return cls(ArmTotals(), ArmTotals(), _comparison(percent), NOTHING, NOTHING, seen_id, position)

    def following(self, percent: int) -> "Seen":
        """The next step, from the same places on."""
        after = Seen.begin(percent, self.seen_id, self.position)
        if percent >= ALL:
            after = replace(after, control=self.control, control_paid=self.control_paid)
            for value in self.stayed_values:
                after.quality.add(0, value)
        return after

    def saved_usd(self) -> Decimal:
        """In this step, as the ledger has it; below 0 if money was lost."""
        return saving(self.control_paid, self.moved_paid).usd

    def evidence(self, hours: float) -> RampEvidence:
        standing = self.quality.standing()
        gap = QualityGap.of_standing(standing) if standing.pairs else None
        return RampEvidence(self.control, self.moved, gap, hours)

    def judged(self, one: Judged) -> None:
        """Take in a judgement. What a fallback or a challenger answered says nothing of either."""
        decision = one.decision
        if not one.label.model_name == decision.model_name == decision.chosen:
            return
        has_moved, value = decision.engine == "ramp", value_of(one.label)
        self.quality.add(int(has_moved), value)
        if not has_moved:
            self.stayed_values.append(value)
            del self.stayed_values[:-MOST_BEFORE]

    def to_json(self) -> dict[str, Any]:
        return {
            "control": self.control.to_json(),
            "moved": self.moved.to_json(),
            "quality": self.quality.to_json(),
            "control_paid": _kept(self.control_paid),
            "moved_paid": _kept(self.moved_paid),
            "seen_id": str(self.seen_id),
            "position": self.position,
            "stayed_values": self.stayed_values,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Seen":
        """What ``to_json`` gave. Raises KeyError or ValueError for anything else."""
        return cls(
            ArmTotals.from_json(data["control"]),
            ArmTotals.from_json(data["moved"]),
            SplitComparison.from_json(data["quality"]),
            _read(data["control_paid"]),
            _read(data["moved_paid"]),
            UUID(data["seen_id"]),
            data["position"],
            list(data["stayed_values"]),
        )


def take_in(ramp: Ramp, seen: Seen, now: datetime) -> bool:
    """Bring ``seen`` up to ``now``. Returns whether there was anything."""
    begun, until, found = UUID(ramp.evidence["begun_id"]), settled_until(now), False
    for batch in answers(_of_ramp(ramp), seen.seen_id, until):
        stayed, moved = _apart(batch)
        _add(seen.moved, moved, ramp.to_model)
        seen.moved_paid = together(seen.moved_paid, paid(ramp.tenant_id, _keys(moved)))
        if ramp.percent < ALL:
            _add(seen.control, stayed, ramp.from_model)
            seen.control_paid = together(seen.control_paid, paid(ramp.tenant_id, _keys(stayed)))
        seen.seen_id, found = batch[-1].request_id, True
    since_it_began = _of_ramp(ramp) & Q(request_id__gte=begun)
    for position, judged in judgements(ramp.tenant_id, since_it_began, seen.position, begun, until):
        for one in judged:
            seen.judged(one)
        seen.position, found = position, True
    return found


def _of_ramp(ramp: Ramp) -> Q:
    """Requests that moved, and those that would have if they had been drawn."""
    cell = Q(tenant=ramp.tenant_id, task=ramp.task, complexity=ramp.complexity)
    could_have = Q(engine__in=ENGINES, chosen=ramp.from_model, qualified__contains=[ramp.to_model])
    return cell & (Q(engine="ramp", chosen=ramp.to_model) | could_have)


def _apart(batch: Iterable[Decision]) -> tuple[list[Decision], list[Decision]]:
    stayed: list[Decision] = []
    moved: list[Decision] = []
    for decision in batch:
        (moved if decision.engine == "ramp" else stayed).append(decision)
    return stayed, moved


def _add(totals: ArmTotals, decisions: Iterable[Decision], model: str) -> None:
    for decision in decisions:
        outcome = outcome_of(decision, model)
        totals.add(
            cost_usd=outcome.cost_usd,
            latency_ms=outcome.latency_ms,
            failed=outcome.failed,
            refused=outcome.refused,
        )


def _keys(decisions: Iterable[Decision]) -> list[UUID]:
    return [decision.request_id for decision in decisions]


def _comparison(percent: int) -> SplitComparison:
    """Of more judgements than these together little is gained, and those that moved would wait for the others."""
    moved = percent / ALL
    stayed = max(1.0 - moved, moved)
    return SplitComparison.of_shares(min(stayed, MOST_TOGETHER * moved), moved)


def _kept(totals: LedgerTotals) -> list[Any]:
    return [totals.requests, str(totals.cost_usd)]


def _read(kept: list[Any]) -> LedgerTotals:
    return LedgerTotals(int(kept[0]), Decimal(kept[1]))
