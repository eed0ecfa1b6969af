"""Whether the arms got the shares they should have: an experiment whose split is wrong proves nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALARM_LEVEL = 0.001
CONCENTRATION = 100.0  # expects deviations of a few points, and finds larger ones at once


@dataclass(frozen=True, slots=True)
class RatioCheck:
    """``p_value`` is valid at any look: right shares ever fall below the alarm level with at most that probability."""

    p_value: float
    alarm: bool
    told: str


def check_ratio(counts: Sequence[int], shares: Sequence[float], *, level: float = ALARM_LEVEL) -> RatioCheck:
    """Compare how often each arm was assigned with its share (which sum to 1).

    The evidence is the Bayes factor of "some other shares" (Dirichlet around the declared ones) against the declared
    ones, a martingale if these are right. Count what is assigned independently: users or sessions where the
    experiment sticks to them, not their requests. Raises ValueError when counts and shares do not match.
    """
    if len(counts) != len(shares) or min(shares) <= 0:
        raise ValueError("each arm needs a count and a share above 0")
    total = sum(counts)
    log_factor = math.lgamma(CONCENTRATION) - math.lgamma(CONCENTRATION + total)
    for count, share in zip(counts, shares, strict=True):
        before = CONCENTRATION * share
        log_factor += math.lgamma(before + count) - math.lgamma(before) - count * math.log(share)
    p_value = min(1.0, math.exp(-log_factor)) if log_factor > 0 else 1.0
    parts = " / ".join(f"{count / max(total, 1):.1%}" for count in counts)
    meant = " / ".join(f"{share:.1%}" for share in shares)
    told = f"{total} assignments were split {parts}, declared is {meant} (p = {p_value:.2g})"
    return RatioCheck(p_value, p_value <= level, told)
