"""Which candidate is tried out: exact probabilities out of draws, none under the part that is kept for it.

Only requests that are judged come here.
"""

from collections.abc import Sequence

import numpy as np

from routing.features import Vector

REST = 0.02  # of the judged requests, for all candidates together


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
