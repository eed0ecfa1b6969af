"""Experiments before ramps before the engine; none of them serves a model that does not qualify."""

from collections import Counter
from typing import Any

import pytest

from routing.candidates import Contestant
from routing.decision import Ranked
from routing.experiments import Experiment
from routing.facts import Ramp, RoutingFacts, RunningExperiment
from routing.features import FeatureSpace
from routing.precedence import Choice, Keys, experiment_of, last_word
from routing.routers import Weighed

FEATURES = FeatureSpace().features("sort a list", "coding", "simple", input_tokens=10)
SOME = 2_000
KEYS = [Keys(f"request-{number}", f"session-{number % 500}", f"user-{number % 100}") for number in range(SOME)]


def ranked(*models: str, propensity: float = 1.0, challenger: str | None = None) -> Weighed:
    order = [Ranked(model, 0.8, 0.1, 1.0, 0.0, propensity if not place else 0.0) for place, model in enumerate(models)]
    return Weighed(order, challenger=challenger, challenger_propensity=None if challenger is None else 0.25)


def tried(**changed: Any) -> RunningExperiment:
    values: dict[str, Any] = {"id": "one", "name": "old or new", "task": "", "complexity": "", "arms": ("old", "new")}
    return RunningExperiment(Experiment(**(values | changed)), judge_rate=1.0)


def ramp(percent: int, **changed: Any) -> Ramp:
    values: dict[str, Any] = {"id": "r", "task": "", "complexity": "", "from_model": "", "to_model": "new"}
    return Ramp(percent=percent, **(values | changed))


def chosen(facts: RoutingFacts, decision: Weighed, keys: Keys) -> Choice:
    field = [Contestant(model) for model in decision.models]
    return last_word(facts, experiment_of(facts, FEATURES, field, keys), FEATURES, decision, keys)


def test_without_anything_else_the_engine_has_the_last_word() -> None:
    choice = chosen(RoutingFacts(), ranked("old", "new", propensity=0.7, challenger="new"), KEYS[0])
    assert (choice.model, choice.by, choice.propensity) == ("old", "hier", 0.7)
    assert (choice.challenger, choice.challenger_propensity) == ("new", 0.25)


def test_an_experiment_comes_before_a_ramp_and_a_ramp_before_the_engine() -> None:
    decision = ranked("other", "old", "new")
    both = RoutingFacts(experiments=(tried(),), ramps=(ramp(100),))
    assert {chosen(both, decision, keys).by for keys in KEYS[:50]} == {"experiment"}
    assert {chosen(RoutingFacts(ramps=(ramp(100),)), decision, keys).model for keys in KEYS[:50]} == {"new"}


def test_the_first_experiment_that_concerns_the_cell_is_the_requests() -> None:
    facts = RoutingFacts(
        experiments=(tried(id="math", task="math"), tried(id="coding", task="coding"), tried(id="all"))
    )
    choice = chosen(facts, ranked("old", "new"), KEYS[0])
    assert choice.experiment is not None
    assert choice.experiment.id == "coding"


def test_a_split_has_the_shares_it_was_given() -> None:
    facts = RoutingFacts(experiments=(tried(shares=(3.0, 1.0), sticky="request"),))
    choices = [chosen(facts, ranked("other", "old", "new"), keys) for keys in KEYS]
    counts = Counter(choice.model for choice in choices)
    assert counts["new"] / SOME == pytest.approx(0.25, abs=0.04)
    assert {choice.model: choice.propensity for choice in choices} == {"old": 0.75, "new": 0.25}


@pytest.mark.parametrize(("sticky", "units"), [("session", 500), ("user", 100), ("request", SOME)])
def test_what_sticks_stays_with_its_arm(sticky: str, units: int) -> None:
    facts = RoutingFacts(experiments=(tried(sticky=sticky),))
    arms: dict[str, set[str]] = {}
    told: dict[str, set[str | None]] = {}
    for keys in KEYS:
        choice = chosen(facts, ranked("old", "new"), keys)
        arms.setdefault(keys.of(sticky), set()).add(choice.model)
        told.setdefault(keys.of(sticky), set()).add(choice.unit)
    assert len(arms) == units
    assert all(len(models) == 1 for models in arms.values())
    assert all(len(digests) == 1 for digests in told.values())
    assert len(set.union(*told.values())) == units


def test_without_a_session_the_request_is_what_sticks_and_without_a_user_the_session() -> None:
    assert Keys("r", None, None).of("session") == "r"
    assert Keys("r", "s", None).of("user") == "s"
    assert Keys("r", "s", "u").of("user") == "u"


def test_a_shadow_experiment_is_answered_by_its_control_beside_a_drawn_arm() -> None:
    facts = RoutingFacts(experiments=(tried(mode="shadow", arms=("old", "new", "other"), shares=(2.0, 3.0, 1.0)),))
    choices = [chosen(facts, ranked("new", "other", "old"), Keys(f"{number}")) for number in range(SOME)]
    assert {choice.model for choice in choices} == {"old"}
    beside = Counter(choice.challenger for choice in choices)
    assert beside["new"] / SOME == pytest.approx(0.75, abs=0.04)
    assert {choice.challenger: choice.challenger_propensity for choice in choices} == {"new": 0.75, "other": 0.25}


def test_an_experiment_is_left_alone_where_an_arm_does_not_qualify() -> None:
    facts = RoutingFacts(experiments=(tried(),))
    choice = chosen(facts, ranked("old", "other"), KEYS[0])
    assert (choice.model, choice.by, choice.experiment) == ("old", "hier", None)


def test_a_ramp_takes_its_share_and_says_with_which_probability() -> None:
    facts = RoutingFacts(ramps=(ramp(25),))
    choices = [chosen(facts, ranked("old", "new"), Keys(f"{number}")) for number in range(SOME)]
    taken = [choice for choice in choices if choice.by == "ramp"]
    assert len(taken) / SOME == pytest.approx(0.25, abs=0.04)
    assert {(choice.model, choice.propensity) for choice in taken} == {("new", 0.25)}
    assert {(choice.model, choice.propensity) for choice in choices if choice.by == "hier"} == {("old", 0.75)}


def test_whoever_is_in_a_ramp_stays_when_it_grows() -> None:
    def of(percent: int) -> set[str]:
        facts = RoutingFacts(ramps=(ramp(percent),))
        return {keys.of("user") for keys in KEYS if chosen(facts, ranked("old", "new"), keys).by == "ramp"}

    assert of(5) <= of(25) <= of(50) <= of(100)
    assert len(of(100)) == 100


def test_a_ramp_holds_for_its_cell_and_the_model_it_takes_over_from() -> None:
    for facts in (
        RoutingFacts(ramps=(ramp(100, task="math"),)),
        RoutingFacts(ramps=(ramp(100, from_model="other"),)),
        RoutingFacts(ramps=(ramp(100, to_model="gone"),)),
    ):
        assert chosen(facts, ranked("old", "new"), KEYS[0]).model == "old"


def test_what_a_ramp_serves_can_still_be_challenged_but_not_by_itself() -> None:
    facts = RoutingFacts(ramps=(ramp(100),))
    assert chosen(facts, ranked("old", "new", "other", challenger="other"), KEYS[0]).challenger == "other"
    itself = chosen(facts, ranked("old", "new", challenger="new"), KEYS[0])
    assert (itself.model, itself.challenger, itself.challenger_propensity) == ("new", None, None)


def test_tools_in_flight_stay_with_whoever_called_them() -> None:
    split, part = RoutingFacts(experiments=(tried(),)), RoutingFacts(ramps=(ramp(50),))
    loose = [Keys(f"{number}", tools_in_flight=True) for number in range(100)]
    for facts in (split, part):
        assert {chosen(facts, ranked("old", "new"), keys).by for keys in loose} == {"hier"}
    kept = [Keys(f"{number}", "one session", tools_in_flight=True) for number in range(100)]
    assert len({chosen(split, ranked("old", "new"), keys).model for keys in kept}) == 1
    assert {chosen(split, ranked("old", "new"), keys).by for keys in kept} == {"experiment"}
    whole = RoutingFacts(ramps=(ramp(100),))
    assert {chosen(whole, ranked("old", "new"), keys).model for keys in loose} == {"new"}
