"""Who has the last word on a routed request: an experiment before a ramp, a ramp before the engine.

Neither serves a model that does not qualify for the request.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from routing.candidates import Contestant
from routing.experiments import Experiment
from routing.experiments.assignment import arm_of, challenger_of
from routing.facts import Ramp, RoutingFacts, RunningExperiment
from routing.features import RequestFeatures
from routing.migration import in_ramp
from routing.routers import Ranking

DecidedBy = Literal["hier", "ema", "fixed", "experiment", "ramp"]


class Keys(Struct, frozen=True):
    """What may stick to a model: the request itself, its session, its end user. ``tools_in_flight``: it goes on with
    calls of tools that a model has made."""

    request: str
    session: str | None = None
    user: str | None = None
    tools_in_flight: bool = False

    def of(self, sticky: str) -> str:
        """The narrowest that is known."""
        if sticky == "user":
            return self.user or self.session or self.request
        return (self.session or self.request) if sticky == "session" else self.request

    def stay(self, sticky: str) -> bool:
        """Whether the next request of this conversation has the same key."""
        return self.of(sticky) != self.request


class Choice(Struct, frozen=True):
    """The model that answers, who chose it, the probability of that, and why, in words. ``unit`` is the digest of what
    sticks to its arm of the experiment."""

    model: str
    by: DecidedBy
    propensity: float
    reason: str
    experiment: Experiment | None = None
    unit: str | None = None
    challenger: str | None = None
    challenger_propensity: float | None = None


def experiment_of(
    facts: RoutingFacts, features: RequestFeatures, field: Sequence[Contestant], keys: Keys
) -> RunningExperiment | None:
    """The experiment that a request belongs to: the first that concerns its cell, if all of its arms are in the field.

    While tools are in flight only what sticks to its arm takes part: another model would go on with calls it has not
    made.
    """
    for running in facts.experiments:
        design = running.design
        if design.concerns(features.task, features.complexity):
            moves = design.mode == "split" and keys.tools_in_flight and not keys.stay(design.sticky)
            return running if not moves and {one.name for one in field}.issuperset(design.arms) else None
    return None


def last_word(
    facts: RoutingFacts, running: RunningExperiment | None, features: RequestFeatures, decision: Ranking, keys: Keys
) -> Choice:
    """What comes of the engine's decision."""
    qualified = set(decision.models)
    if running is not None and qualified.issuperset(running.design.arms):
        return _by_experiment(running.design, keys)
    for ramp in facts.ramps:
        concerned = ramp.concerns(features.task, features.complexity) and ramp.from_model in ("", decision.model)
        if concerned and ramp.to_model in qualified and ramp.to_model != decision.model:
            return _by_ramp(ramp, by_engine(facts, decision), keys)
    return by_engine(facts, decision)


def by_engine(facts: RoutingFacts, decision: Ranking) -> Choice:
    """The engine's decision as it is: nearly always nobody else has a word in it."""
    return Choice(
        decision.model,
        facts.engine,
        decision.propensity,
        decision.reason,
        challenger=decision.challenger,
        challenger_propensity=decision.challenger_propensity,
    )


def going_on(before: str | None, facts: RoutingFacts, decision: Ranking, choice: Choice) -> Choice:
    """The choice while tools are in flight: ``before``, which has called them, as long as it qualifies. Another would
    go on with what it has not begun. An experiment keeps its arm anyway."""
    if before is None or before == choice.model or choice.by == "experiment" or before not in decision.models:
        return choice
    return Choice(before, facts.engine, 1.0, f"{before}: goes on with the calls of tools that it has made")


def _by_ramp(ramp: Ramp, engines: Choice, keys: Keys) -> Choice:
    """``engines`` is the choice without the ramp, and stays it for those that do not take part. A challenger that is
    served has nobody to challenge."""
    share = ramp.percent / 100
    if share < 1 and keys.tools_in_flight and not keys.stay("user"):
        return engines
    if not in_ramp(ramp.id, keys.of("user"), ramp.percent):
        return replace(engines, propensity=engines.propensity * (1 - share))
    reason = f"{ramp.to_model}: takes over {ramp.percent} % of these requests"
    taken = replace(engines, model=ramp.to_model, by="ramp", propensity=share, reason=reason)
    return replace(taken, challenger=None, challenger_propensity=None) if taken.challenger == taken.model else taken


def _by_experiment(design: Experiment, keys: Keys) -> Choice:
    key = keys.of(design.sticky)
    unit = hashlib.blake2b(f"{design.id}/{key}".encode(), digest_size=16).hexdigest()
    if design.mode == "shadow":  # the control answers; the arm that is drawn answers beside it
        reason = f"{design.arms[0]}: the control of the experiment '{design.name}'"
        beside, share = challenger_of(design, key)
        return Choice(design.arms[0], "experiment", 1.0, reason, design, unit, design.arms[beside], share)
    number, share = arm_of(design, key)
    reason = f"{design.arms[number]}: its share of the experiment '{design.name}'"
    return Choice(design.arms[number], "experiment", share, reason, design, unit)
