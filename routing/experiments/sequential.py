"""Which of two arms is better, looked at as often as one likes: the chance of ever naming a winner among two equal
arms is at most ``alpha``. The differences are ``challenger - control``, both 0-1."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from routing.experiments.betting import MOST_EVIDENCE, RESOLUTION, STAKES, Vector, interval, log_evidence, log_gains
from routing.experiments.betting import rounded as rounded_difference

ALPHA = 0.05
MARGIN = 0.05
MOST_WAITING = 1_000  # values of one arm that wait for the other's; the oldest are given up first


class Verdict(StrEnum):
    """What is proven. ``a`` is the control, ``b`` the challenger."""

    A = "a"
    B = "b"
    EQUAL = "equal"
    NONE_YET = "none yet"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a comparison stands. ``estimate``, ``low`` and ``high`` are of the difference, challenger less control.

    ``e_value`` is how much more probable a loss of this size makes what was seen than no difference does, at present;
    ``p_value`` is anytime-valid and that of the strongest evidence there ever was.
    """

    pairs: int
    estimate: float
    low: float
    high: float
    e_value: float
    p_value: float
    verdict: Verdict


@dataclass(slots=True)
class PairComparison:
    """Two arms' values for the same request, pair by pair. ``alpha`` is of this comparison, both directions together;
    ``margin`` is the difference that counts as none."""

    alpha: float = ALPHA
    margin: float = MARGIN
    counts: dict[int, int] = field(default_factory=dict)
    winner: Verdict = Verdict.NONE_YET
    peak: float = 0.0
    log_capital: Vector = field(default_factory=lambda: np.zeros((2, len(STAKES))))

    @property
    def pairs(self) -> int:
        return sum(self.counts.values())

    def add(self, control: float, challenger: float) -> None:
        """Take in one pair. Raises ValueError for a value outside 0-1."""
        step = rounded_difference(_checked(challenger) - _checked(control))
        self.counts[step] = self.counts.get(step, 0) + 1
        self.log_capital += log_gains(step / RESOLUTION)
        above, below = (float(evidence) for evidence in log_evidence(self.log_capital))
        self.peak = max(self.peak, above, below)
        if self.winner is Verdict.NONE_YET and max(above, below) >= np.log(2.0 / self.alpha):
            self.winner = Verdict.B if above > below else Verdict.A

    def standing(self) -> Standing:
        """Where it stands. A winner stays one: the evidence was enough when it was named."""
        pairs = self.pairs
        low, high = interval(self.counts, self.alpha)
        now = float(log_evidence(self.log_capital).max()) - float(np.log(2.0))
        within = -self.margin <= low and high <= self.margin
        return Standing(
            pairs=pairs,
            estimate=sum(step * times for step, times in self.counts.items()) / (RESOLUTION * max(pairs, 1)),
            low=max(low, -1.0),
            high=min(high, 1.0),
            e_value=float(np.exp(min(now, MOST_EVIDENCE))),
            p_value=min(1.0, 2.0 * float(np.exp(-self.peak))),
            verdict=Verdict.EQUAL if within and self.winner is Verdict.NONE_YET else self.winner,
        )

    def to_json(self) -> dict[str, Any]:
        """The whole state; goes through JSON unchanged."""
        return {
            "alpha": self.alpha,
            "margin": self.margin,
            "counts": {str(step): times for step, times in sorted(self.counts.items())},
            "winner": self.winner.value,
            "peak": self.peak,
            "log_capital": self.log_capital.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PairComparison":
        """What ``to_json`` gave. Raises KeyError or ValueError for anything else."""
        capital = np.array(data["log_capital"], np.float64)
        counts = {int(step): int(times) for step, times in data["counts"].items()}
        if capital.shape != (2, len(STAKES)):  # written with other stakes: the counts say all
            capital = _capital_of(counts)
        return cls(data["alpha"], data["margin"], counts, Verdict(data["winner"]), data["peak"], capital)


@dataclass(slots=True)
class SplitComparison:
    """Two arms with requests of their own: values are paired in the order they come.

    The arm with the smaller share meets the mean of ``together`` values of the other arm, so that little is left over.
    """

    together: tuple[int, int] = (1, 1)
    paired: PairComparison = field(default_factory=PairComparison)
    waiting: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    @classmethod
    def of_shares(
        cls, control: float, challenger: float, *, alpha: float = ALPHA, margin: float = MARGIN
    ) -> "SplitComparison":
        """A comparison of two arms that get these shares of the traffic."""
        together = (max(1, round(control / challenger)), max(1, round(challenger / control)))
        return cls(together, PairComparison(alpha, margin))

    def add(self, arm: int, value: float) -> None:
        """Take in one value (0-1) of arm 0, the control, or 1. Raises ValueError for a value outside 0-1."""
        waiting = self.waiting[arm]
        waiting.append(_checked(value))
        if len(waiting) > MOST_WAITING:
            del waiting[0]
        if all(len(values) >= count for values, count in zip(self.waiting, self.together, strict=True)):
            control, challenger = (self._taken(arm) for arm in (0, 1))
            self.paired.add(control, challenger)

    def standing(self) -> Standing:
        """Where it stands; ``pairs`` counts what has met."""
        return self.paired.standing()

    def to_json(self) -> dict[str, Any]:
        """The whole state; goes through JSON unchanged."""
        waiting = [list(values) for values in self.waiting]
        return {"together": list(self.together), "waiting": waiting, "paired": self.paired.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SplitComparison":
        """What ``to_json`` gave. Raises KeyError or ValueError for anything else."""
        first, second = data["waiting"]
        control, challenger = data["together"]
        return cls((control, challenger), PairComparison.from_json(data["paired"]), (list(first), list(second)))

    def _taken(self, arm: int) -> float:
        count, waiting = self.together[arm], self.waiting[arm]
        mean = sum(waiting[:count]) / count
        del waiting[:count]
        return min(mean, 1.0)


def _checked(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"a judgement lies within 0 and 1, not at {value}")
    return value


def _capital_of(counts: dict[int, int]) -> Vector:
    capital = np.zeros((2, len(STAKES)))
    for step, times in counts.items():
        capital += times * log_gains(step / RESOLUTION)
    return capital
