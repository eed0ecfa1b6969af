"""What is to be done with an experiment, and why in words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from routing.experiments.evidence import Evidence
from routing.experiments.facts import Experiment
from routing.experiments.guards import STANDARD_GUARDS, Breach, Guard
from routing.experiments.sample_ratio import RatioCheck
from routing.experiments.sequential import Standing, Verdict

Action = Literal["continue", "promote", "keep_control", "stop"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When an experiment ends without a winner (labels: judged answers or pairs), and what must not get worse."""

    most_labels: int = 2_000
    most_days: float = 28.0
    guards: tuple[Guard, ...] = STANDARD_GUARDS


@dataclass(frozen=True, slots=True)
class Conclusion:
    """``winner`` is a model only if one was proven better, or as good and cheaper; ``data`` goes through JSON."""

    action: Action
    winner: str | None
    reason: str
    data: dict[str, Any] = field(default_factory=dict)


def decide(experiment: Experiment, evidence: Evidence, limits: Limits, *, days: float) -> Conclusion:
    """Conclude from what was seen in ``days`` since the experiment began. May be asked as often as one likes."""
    ratio, broken, standings = evidence.ratio(), evidence.breaches(limits.guards), evidence.standings()
    costs = [totals.cost_per_1000 for totals in evidence.totals]
    data = _data(experiment, evidence, ratio, broken, standings)
    action, winner, reason = _concluded(experiment, ratio, broken, standings, costs) or _running(
        evidence, limits, days, standings, experiment
    )
    return Conclusion(action, winner, reason, data)


Concluded = tuple[Action, str | None, str]


def _concluded(
    experiment: Experiment,
    ratio: RatioCheck | None,
    broken: Sequence[Sequence[Breach]],
    standings: Sequence[Standing],
    costs: Sequence[float | None],
) -> Concluded | None:
    """The conclusion, if there is one before time and labels run out."""
    if ratio is not None and ratio.alarm:
        return "stop", None, f"the traffic was not split as declared, so nothing is proven: {ratio.told}"
    sound = [place for place, found in enumerate(broken) if not found]
    better = [place for place in sound if standings[place].verdict is Verdict.B]
    if better:
        best = max(better, key=lambda place: standings[place].estimate)
        return "promote", experiment.arms[best + 1], _told(experiment, best, standings[best])
    if len(sound) < len(broken) and (experiment.mode == "split" or not sound):
        return "keep_control", None, _guarded(experiment, broken)
    if all(standings[place].verdict is Verdict.A for place in sound):
        told = "; ".join(_told(experiment, place, standings[place]) for place in sound)
        return "keep_control", experiment.arms[0], told
    if all(standings[place].verdict is not Verdict.NONE_YET for place in sound):
        return _cheaper(experiment, [place for place in sound if standings[place].verdict is Verdict.EQUAL], costs)
    return None


def _running(
    evidence: Evidence, limits: Limits, days: float, standings: Sequence[Standing], experiment: Experiment
) -> Concluded:
    told = "; ".join(_told(experiment, place, standing) for place, standing in enumerate(standings))
    if evidence.labels >= limits.most_labels:
        return "keep_control", None, f"undecided after {evidence.labels} judged requests, the most it may take: {told}"
    if days >= limits.most_days:
        return "keep_control", None, f"undecided after {days:.0f} days, the longest it may take: {told}"
    return "continue", None, told


def _cheaper(experiment: Experiment, equal: Sequence[int], costs: Sequence[float | None]) -> Concluded:
    """Of arms that are as good as the control the cheapest wins; where a cost is unknown the control stays."""
    control = costs[0]
    priced = [(cost, place) for place in equal if (cost := costs[place + 1]) is not None]
    if control is not None and priced:
        cost, place = min(priced)
        if cost < control:
            told = f"{cost:.4g} USD per 1,000 requests against {control:.4g}"
            name = experiment.arms[place + 1]
            return "promote", name, f"{name} is as good as {experiment.arms[0]} and cheaper: {told}"
        return "keep_control", experiment.arms[0], f"no arm is better or cheaper than {experiment.arms[0]}"
    return "keep_control", None, f"no arm is better than {experiment.arms[0]}, and costs are unknown"


def _guarded(experiment: Experiment, broken: Sequence[Sequence[Breach]]) -> str:
    names = zip(experiment.arms[1:], broken, strict=True)
    return "; ".join(f"{name}: {breach.told}" for name, found in names for breach in found)


def _told(experiment: Experiment, place: int, standing: Standing) -> str:
    control, tested = experiment.arms[0], experiment.arms[place + 1]
    if not standing.pairs:
        return f"no judged answers of {tested} to hold against those of {control} yet"
    found = f"by {standing.estimate:+.3f} ({standing.low:+.3f} to {standing.high:+.3f}) over {standing.pairs} pairs"
    if standing.verdict is Verdict.NONE_YET:
        return f"{tested} differs from {control} {found}: not decided"
    if standing.verdict is Verdict.EQUAL:
        return f"{tested} is as good as {control}: it differs {found}"
    better = tested if standing.verdict is Verdict.B else control
    return f"{better} is better: {tested} differs from {control} {found}, p = {standing.p_value:.2g}"


def _data(
    experiment: Experiment,
    evidence: Evidence,
    ratio: RatioCheck | None,
    broken: Sequence[Sequence[Breach]],
    standings: Sequence[Standing],
) -> dict[str, Any]:
    arms = []
    for place, (name, totals, units) in enumerate(zip(experiment.arms, evidence.totals, evidence.units, strict=True)):
        arm: dict[str, Any] = {"model": name, "requests": totals.requests, "units": units}
        arm |= {"cost_per_1000": totals.cost_per_1000, "p95_ms": totals.p95_ms()}
        arm |= {"failed": totals.failed, "refused": totals.refused}
        if place:
            standing = standings[place - 1]
            arm |= {"pairs": standing.pairs, "difference": standing.estimate, "low": standing.low}
            arm |= {"high": standing.high, "e_value": standing.e_value, "p_value": standing.p_value}
            arm |= {"verdict": standing.verdict.value, "breaches": [breach.told for breach in broken[place - 1]]}
        arms.append(arm)
    return {"labels": evidence.labels, "arms": arms, "ratio_p_value": None if ratio is None else ratio.p_value}
