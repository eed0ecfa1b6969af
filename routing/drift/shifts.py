"""Has a figure of the same conversations shifted, and since when? Asked after every run, at a set rate of false alarms
however often it is asked.

A new value of a conversation is compared with that conversation's own earlier ones (a *recursive residual*: as long as
nothing changes these are uncorrelated, whatever the conversation's level and however lucky its first answer was). For
every run with which a change may have begun, bets on a shift since then are multiplied up: a likelihood ratio. Its
average over the sizes of shift, summed over the beginnings and divided by the runs of a year, is the evidence. Without
a change its expectation grows by one a year, so that it reaches ``1 / rate`` within a year with a probability of at
most ``rate``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import msgspec
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Values = Mapping[str, Sequence[float]]

RUNS_A_YEAR = 52
LEAST_CONVERSATIONS = 5  # with earlier values; a run with fewer says nothing
OLDEST_START = 26  # runs; what changed before is what is usual now
KEPT_DAYS = 366
FORGOTTEN_AFTER_DAYS = 60  # without the conversation
VARIANCE_MARGIN = 1.1  # the variance is estimated, and the noise is not Gaussian
WINSORISED_AT = 3.0  # standard deviations
USUAL_WEIGHT = 10.0  # residuals that the usual standard deviation counts for
_GREATEST_EXPONENT = 600.0


@dataclass(frozen=True, slots=True)
class Bets:
    """What to look for in a figure, in its own unit.

    ``sizes`` of shift, negative for a fall. A lasting shift of less than half the smallest hardly ever alarms.
    ``usual_sd`` of repeated values of one conversation, to begin with, and ``least_sd`` under which no experience lets
    it fall; ``common_sd`` of what moves all conversations of a run together for no lasting reason.
    """

    sizes: tuple[float, ...]
    usual_sd: float
    least_sd: float
    common_sd: float


@dataclass(frozen=True, slots=True)
class Look:
    """One run beside the earlier ones: by conversation its residual, the residual's scale, and its values by day."""

    residuals: Vector
    scale: Vector
    days: npt.NDArray[np.int64]
    counts: Vector
    variance: float
    common_variance: float

    def shift(self, starts: Sequence[int]) -> tuple[Vector, Vector]:
        """By supposed beginning: the shift since then as this run shows it, and its variance (infinite: shows none)."""
        known_before = np.concatenate([np.zeros((len(self.counts), 1)), self.counts.cumsum(axis=1)], axis=1)
        places = np.searchsorted(self.days, np.array(starts))
        # A conversation that was only ever asked after the beginning says nothing about the shift.
        slopes = self.scale[:, None] * known_before[:, places] / known_before[:, -1:]
        weight = (slopes**2).sum(axis=0)
        some = weight > 0
        weight[~some] = 1.0
        carried = self.scale @ slopes / weight
        variance = np.where(some, self.variance / weight + self.common_variance * carried**2, np.inf)
        return self.residuals @ slopes / weight, variance


class Series(msgspec.Struct):
    """Earlier values by conversation (day and value), the noise in them, and the logarithms of the likelihood ratios
    by the day of the run with which a change may have begun. Days are ordinal numbers."""

    history: dict[str, list[tuple[int, float]]] = {}
    squares: float = 0.0
    freedom: float = 0.0
    log_ratios: dict[int, list[float]] = {}

    @property
    def evidence(self) -> float:
        """Reaches 1 / rate with a probability of at most ``rate`` per year while nothing changes."""
        ratios = (float(np.exp(np.minimum(logs, _GREATEST_EXPONENT)).mean()) for logs in self.log_ratios.values())
        return sum(ratios) / RUNS_A_YEAR

    @property
    def likeliest_start(self) -> date | None:
        """The run that a change, if there was one, most likely began with."""
        if not self.log_ratios:
            return None
        return date.fromordinal(max(self.log_ratios, key=lambda start: max(self.log_ratios[start])))

    def look(self, values: Values, bets: Bets) -> Look | None:
        """Compare a run with the earlier ones, and learn how much noise there is. None: too little to compare."""
        known = [name for name in values if len(values[name]) and self.history.get(name)]
        if len(known) < LEAST_CONVERSATIONS:
            return None
        row = np.repeat(np.arange(len(known)), [len(self.history[name]) for name in known])
        day, value = np.array([pair for name in known for pair in self.history[name]]).T
        days, column = np.unique(day.astype(np.int64), return_inverse=True)
        counts = np.bincount(row * len(days) + column, minlength=len(known) * len(days)).reshape(-1, len(days))
        earlier, fresh = counts.sum(axis=1), np.array([len(values[name]) for name in known])
        usual = np.bincount(row, value) / earlier
        scale = np.sqrt(earlier * fresh / (earlier + fresh))
        residuals = scale * (np.array([sum(values[name]) for name in known]) / fresh - usual)
        variance = self._learn_noise(residuals, scale, bets)
        most = WINSORISED_AT * variance**0.5
        return Look(residuals.clip(-most, most), scale, days, counts.astype(float), variance, bets.common_sd**2)

    def bet(self, run: date, own: Look, control: Look | None, bets: Bets) -> None:
        """Take what a run shows into the evidence, net of what it shows of the control."""
        self.log_ratios[run.toordinal()] = [0.0] * len(bets.sizes)
        for start in sorted(self.log_ratios)[:-OLDEST_START]:
            del self.log_ratios[start]
        starts = list(self.log_ratios)
        shift, variance = own.shift(starts)
        if control is not None:
            of_control, variance_of_control = control.shift(starts)
            shift, variance = shift - of_control, variance + variance_of_control
        sizes = np.array(bets.sizes)
        gained = (np.outer(shift, sizes) - sizes**2 / 2) / variance[:, None]
        for start, more in zip(starts, gained, strict=True):
            self.log_ratios[start] = (np.array(self.log_ratios[start]) + more).tolist()

    def remember(self, run: date, values: Values) -> None:
        """Keep a run's values to compare later ones with."""
        today = run.toordinal()
        for name, fresh in values.items():
            self.history.setdefault(name, []).extend((today, float(value)) for value in fresh)
        for name, known in list(self.history.items()):
            self.history[name] = [pair for pair in known if pair[0] > today - KEPT_DAYS]
            if not known or known[-1][0] <= today - FORGOTTEN_AFTER_DAYS:
                del self.history[name]

    def change_since(self, start: date) -> float | None:
        """Mean of a conversation's values from ``start`` on less the mean before, over all that have both."""
        changes = []
        for known in self.history.values():
            before = [value for day, value in known if day < start.toordinal()]
            after = [value for day, value in known if day >= start.toordinal()]
            if before and after:
                changes.append(sum(after) / len(after) - sum(before) / len(before))
        return sum(changes) / len(changes) if changes else None

    def restarted(self, start: date | None) -> "Series":
        """As if the first run had been that of ``start`` (None: nothing is kept but how much noise there is)."""
        first = date.max.toordinal() if start is None else start.toordinal()
        kept = {name: [pair for pair in known if pair[0] >= first] for name, known in self.history.items()}
        return Series({name: known for name, known in kept.items() if known}, self.squares, self.freedom)

    def _learn_noise(self, residuals: Vector, scale: Vector, bets: Bets) -> float:
        """Variance of a residual: of all spread so far around what the residuals of a run have in common."""
        spread = residuals - scale * (residuals @ scale) / (scale @ scale)
        self.squares += float(spread @ spread)
        self.freedom += len(residuals) - 1
        learned = (USUAL_WEIGHT * bets.usual_sd**2 + self.squares) / (USUAL_WEIGHT + self.freedom)
        return VARIANCE_MARGIN * max(learned, bets.least_sd**2)
