"""Who judges, how often, and within which money."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

USUAL_VARIANCE = 0.12**2
USUAL_WEIGHT = 20  # repeated judgements that the usual variance counts for
GOOD_ENOUGH = 0.1  # a judge may be expected to be this much worse than the best there is
CERTAIN_SHARE_OF_DAY = 0.05  # no estimate of a day's traffic is made from less of it


@dataclass(frozen=True, slots=True)
class Sampler:
    """How large a share of answers is judged: ``rate``, or less so that ``usd_per_day`` lasts until midnight (UTC)."""

    rate: float
    usd_per_day: float

    def probability(self, *, spent_usd: float, cost_usd: float | None, answers: int, share_of_day: float) -> float:
        """Of the next answers. ``spent_usd`` and ``answers`` are today's so far, ``cost_usd`` is what judging one costs
        (None: nobody knows yet), ``share_of_day`` how much of the day is over, 0-1."""
        left = self.usd_per_day - spent_usd
        if left <= 0 or self.rate <= 0:
            return 0.0
        if not cost_usd or not answers:
            return self.rate
        passed = max(share_of_day, CERTAIN_SHARE_OF_DAY)
        expected_answers = answers / passed * (1 - share_of_day)
        if expected_answers <= 0:
            return self.rate
        return min(self.rate, left / cost_usd / expected_answers)


def variance_of_repeats(repeats: Sequence[tuple[float, float]]) -> float:
    """A judge's own variance, from answers it has judged twice; few of them hardly move it from the usual one."""
    squares = sum((one - other) ** 2 / 2 for one, other in repeats)
    return (USUAL_WEIGHT * USUAL_VARIANCE + squares) / (USUAL_WEIGHT + len(repeats))


def choose_judge(
    quality: Mapping[str, float], prices: Mapping[str, float], judged: Collection[str], pinned: str = ""
) -> str | None:
    """The model that judges; None if there is none but those ``judged``.

    ``pinned`` unless it is judged itself; else the cheapest (by ``prices``, of those that have one) whose expected
    ``quality`` is close to the best: a judge must understand the answer, but to rate is easier than to answer well.
    """
    if pinned and pinned not in judged:
        return pinned
    able = {model: value for model, value in quality.items() if model not in judged and model in prices}
    if not able:
        return None
    least = max(able.values()) - GOOD_ENOUGH
    return min((model for model, value in able.items() if value >= least), key=lambda model: (prices[model], model))
