"""Who answers while little is known, and which candidate is tried out.

What is not judged stays with the cheapest candidate until another is ahead by more than may be chance. What is judged
explores: exact probabilities out of draws, none under the part that is kept for a candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routing.features import Vector

REST = 0.02  # of the judged requests, for all candidates together


@dataclass(frozen=True, slots=True)
class Caution:
    """How far ahead of the ``incumbent`` (a number; the cheapest candidate, if there is one) the others must be.

    By candidate: ``leads`` in points of quality, to six digits, ``apart`` the standard deviation of its distance from
    the incumbent where that is to be measured, else 0.
    """

    incumbent: int | None
    leads: Sequence[float]
    apart: Sequence[float]

    @classmethod
    def none(cls, candidates: int) -> "Caution":
        """Whoever is ahead answers."""
        return cls(None, [0.0] * candidates, [0.0] * candidates)

    def unsettled(self, cautious: Sequence[float], enough: float) -> bool:
        """Whether the incumbent and the best other by ``cautious`` scores are not told apart to within ``enough``."""
        if self.incumbent is None:
            return False
        others = [number for number in range(len(cautious)) if number != self.incumbent]
        rival = max(others, key=cautious.__getitem__)
        return self.apart[rival] > enough


def least_shares(
    unfamiliar: Sequence[bool], anew: Sequence[bool], *, unfamiliar_share: float, reopened_share: float
) -> Vector:
    """By candidate, the part of the judged requests that is kept for it.

    Each that is ``unfamiliar`` has its part of ``unfamiliar_share``, as if all were, so that first labels that were bad
    luck are made good. Those to be learned ``anew`` share ``reopened_share``.
    """
    count = len(unfamiliar)
    least = np.where(unfamiliar, max(unfamiliar_share, REST), REST) / count
    if any(anew):
        least[list(anew)] = reopened_share / sum(anew)
    return least


def odds_of(drawn: Vector, least: Vector) -> Vector:
    """How often each candidate (column) comes out first in the draws (rows), none under its least share; they sum to 1.

    Who is minus infinity does not take part.
    """
    wins = np.bincount(drawn.argmax(axis=1), minlength=drawn.shape[1]) / len(drawn)
    odds = np.where(np.isfinite(drawn[0]), np.maximum(wins, least), 0.0)
    floored: Vector = odds / odds.sum()
    return floored
