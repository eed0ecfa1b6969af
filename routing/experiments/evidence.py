"""All that an experiment has seen, taken in one label and one answer at a time, and stored as JSON."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from routing.experiments.facts import Experiment
from routing.experiments.guards import Breach, Guard, breaches
from routing.experiments.sample_ratio import RatioCheck, check_ratio
from routing.experiments.sequential import ALPHA, MARGIN, PairComparison, SplitComparison, Standing
from routing.experiments.totals import ArmTotals

MOST_UNITS = 5_000  # users or sessions whose split is counted, and from whom labels are taken
_MARK_BYTES = 6


@dataclass(slots=True)
class Evidence:
    """One experiment's. Take in everything in one order; the same order gives the same state on every replica.

    ``units`` counts what was assigned to each arm by itself: requests, or the sessions or users the experiment sticks
    to. Of such a unit only the first label counts, because its labels are no independent witnesses.
    """

    experiment: Experiment
    comparisons: list[PairComparison | SplitComparison]
    totals: list[ArmTotals]
    units: list[int]
    labels: int = 0
    _assigned: set[bytes] = field(default_factory=set)
    _labelled: set[bytes] = field(default_factory=set)

    @classmethod
    def begin(cls, experiment: Experiment, *, alpha: float = ALPHA, margin: float = MARGIN) -> "Evidence":
        """Nothing seen. ``alpha`` is shared out among the challengers; ``margin`` is the difference in quality (0-1)
        that counts as none."""
        control, *challengers = experiment.shares
        each = alpha / len(challengers)
        comparisons: list[PairComparison | SplitComparison] = [
            PairComparison(each, margin)
            if experiment.mode == "shadow"
            else SplitComparison.of_shares(control, share, alpha=each, margin=margin)
            for share in challengers
        ]
        arms = len(experiment.arms)
        return cls(experiment, comparisons, [ArmTotals() for _ in range(arms)], [0] * arms)

    def add_answer(
        self,
        arm: int,
        unit: str,
        *,
        cost_usd: float | None,
        latency_ms: float | None,
        failed: bool = False,
        refused: bool = False,
    ) -> None:
        """Take in one answer of an arm. ``unit`` is the key that it was assigned by."""
        self.totals[arm].add(cost_usd=cost_usd, latency_ms=latency_ms, failed=failed, refused=refused)
        if self.experiment.sticky == "request" or self._is_new(self._assigned, unit):
            self.units[arm] += 1

    def add_label(self, arm: int, unit: str, value: float) -> bool:
        """Take in one judgement (0-1) of a split experiment; False when the unit's first one was taken already.

        Raises ValueError for a value outside 0-1 or a shadow experiment.
        """
        if self.experiment.mode != "split":
            raise ValueError("a shadow experiment takes pairs")
        if not self._counts(unit):
            return False
        for challenger, comparison in enumerate(self.comparisons, start=1):
            if isinstance(comparison, SplitComparison) and arm in (0, challenger):
                comparison.add(int(arm == challenger), value)
        return True

    def add_pair(self, challenger: int, unit: str, control_value: float, challenger_value: float) -> bool:
        """Take in the judgements of the control's and a challenger's answer to one request of a shadow experiment;
        False when the unit's first ones were taken already. Raises ValueError for a value outside 0-1 or a split
        experiment."""
        comparison = self.comparisons[challenger - 1]
        if not isinstance(comparison, PairComparison) or challenger < 1:
            raise ValueError("only a shadow experiment takes pairs, of the control and a challenger")
        if not self._counts(unit):
            return False
        comparison.add(control_value, challenger_value)
        return True

    def standings(self) -> list[Standing]:
        """Of each challenger, in the order of the arms."""
        return [comparison.standing() for comparison in self.comparisons]

    def ratio(self) -> RatioCheck | None:
        """Whether the split is the declared one; None where nothing is split."""
        return check_ratio(self.units, self.experiment.shares) if self.experiment.mode == "split" else None

    def breaches(self, guards: Sequence[Guard]) -> list[list[Breach]]:
        """Of each challenger, in the order of the arms."""
        return [breaches(guards, self.totals[0], tested) for tested in self.totals[1:]]

    def to_json(self) -> dict[str, Any]:
        """The whole state; goes through JSON unchanged."""
        return {
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "totals": [totals.to_json() for totals in self.totals],
            "units": list(self.units),
            "labels": self.labels,
            "assigned": _packed(self._assigned),
            "labelled": _packed(self._labelled),
        }

    @classmethod
    def from_json(cls, experiment: Experiment, data: dict[str, Any]) -> "Evidence":
        """What ``to_json`` gave of this experiment. Raises KeyError or ValueError for anything else."""
        kind = PairComparison if experiment.mode == "shadow" else SplitComparison
        return cls(
            experiment,
            [kind.from_json(stored) for stored in data["comparisons"]],
            [ArmTotals.from_json(stored) for stored in data["totals"]],
            list(data["units"]),
            data["labels"],
            _unpacked(data["assigned"]),
            _unpacked(data["labelled"]),
        )

    def _counts(self, unit: str) -> bool:
        if self.experiment.sticky != "request" and not self._is_new(self._labelled, unit):
            return False
        self.labels += 1
        return True

    @staticmethod
    def _is_new(known: set[bytes], unit: str) -> bool:
        mark = blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=_MARK_BYTES).digest()
        if mark in known or len(known) >= MOST_UNITS:
            return False
        known.add(mark)
        return True


def _packed(marks: set[bytes]) -> str:
    return b64encode(b"".join(sorted(marks))).decode()


def _unpacked(packed: str) -> set[bytes]:
    joined = b64decode(packed)
    return {joined[start : start + _MARK_BYTES] for start in range(0, len(joined), _MARK_BYTES)}
