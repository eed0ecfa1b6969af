"""Three engines behind one question, as a gateway process holds them."""

from typing import Any

import numpy as np
import pytest

from routing.candidates import Contestant
from routing.decision import Exploration, Label
from routing.ema import EmaSettings, MovingAverages
from routing.facts import RoutingFacts
from routing.features import FeatureSpace
from routing.routers import (
    AveragingRouter,
    FixedRouter,
    LearningRouter,
    Question,
    candidate_of,
    new_averages,
    new_engine,
    pool_of,
    with_models,
)
from routing.scores import Candidate, Experience

FEATURES = FeatureSpace().features("sort a list", "coding", "simple", input_tokens=500)
CHEAP, MIDDLE, DEAR = Candidate("cheap", 0.1, 0.4), Candidate("middle", 1.0, 4.0), Candidate("dear", 10.0, 40.0)
ALL = (CHEAP, MIDDLE, DEAR)


def facts(**changed: Any) -> RoutingFacts:
    known = {
        "contestants": {
            one.model: Contestant(one.model, input_price=one.input_price, output_price=one.output_price) for one in ALL
        },
        "published": {"cheap": 0.74, "middle": 0.77, "dear": 0.8},
    }
    return RoutingFacts(**(known | changed))


def asked(strategy: str = "balanced", candidates: tuple[Candidate, ...] = ALL, **changed: Any) -> Question:
    return Question(FEATURES, candidates, strategy, **changed)


def learning(known: RoutingFacts | None = None, **changed: Any) -> LearningRouter:
    known = known or facts()
    return LearningRouter(new_engine(known), pool_of(known), **changed)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_strategies_weigh_the_same_beliefs_differently() -> None:
    router = learning()
    chosen = {name: router.decide(asked(name), rng()).model for name in ("quality", "balanced", "cost")}
    assert chosen == {"quality": "dear", "balanced": "middle", "cost": "cheap"}


def test_what_a_strategy_weighs_does_not_depend_on_what_was_asked_first() -> None:
    """Two gateways with one state must choose alike, whichever request each of them saw first."""
    one, other = learning(), learning()
    one.decide(asked(candidates=(CHEAP, MIDDLE)), rng())
    weighed = [router.decide(asked(), rng()).table() for router in (one, other)]
    assert weighed[0] == weighed[1]


def test_a_free_model_does_not_make_every_dollar_weigh_infinitely() -> None:
    free = {"local": Contestant("local", input_price=0.0, output_price=0.0)}
    known = facts(published={"local": 0.9, "cheap": 0.5, "middle": 0.75, "dear": 0.8})
    known = facts(contestants={**known.contestants, **free}, published=known.published)
    router = learning(known)
    penalties = {one.model: one.penalty for one in router.decide(asked(candidates=pool_of(known)), rng()).order}
    assert max(penalties.values()) < 1.0
    assert penalties["local"] == 0.0


def test_a_spend_target_takes_the_place_of_the_strategys_weight_but_not_of_quality() -> None:
    router = learning()
    router.weigh_cost(1.0)
    assert router.decide(asked("balanced"), rng()).model == "cheap"
    assert router.decide(asked("quality"), rng()).model == "dear"
    router.weigh_cost(0.0)
    assert router.decide(asked("balanced"), rng()).model == "dear"
    router.weigh_cost(None)
    assert router.decide(asked("balanced"), rng()).model == "middle"


def test_nobody_is_served_less_than_the_quality_floor_where_any_model_reaches_it() -> None:
    assert learning(quality_floor=0.76).decide(asked("cost"), rng()).model == "middle"
    assert learning(quality_floor=0.78).decide(asked("cost"), rng()).model == "dear"
    assert learning(quality_floor=0.99).decide(asked("cost"), rng()).model == "cheap"


def test_exploring_does_not_break_the_quality_floor() -> None:
    router = learning(quality_floor=0.76)
    served = {router.decide(asked(explore=Exploration.SERVED), rng(seed)).model for seed in range(60)}
    assert "cheap" not in served
    assert len(served) == 2


def test_points_of_rules_decide_in_every_engine_that_weighs() -> None:
    for router in (learning(), FixedRouter(facts().published, Experience()), averaging(0.0)):
        decision = router.decide(asked(points={"dear": 2.0}), rng())
        told = decision.table().columns("dear")
        assert (decision.model, told["points"][0]) == ("dear", 2.0)
        assert told["propensity"] == pytest.approx([1.0, 0.0, 0.0])


def test_fixed_weights_need_no_labels_and_learn_none() -> None:
    router = FixedRouter(facts().published, Experience())
    chosen = {name: router.decide(asked(name), rng()).model for name in ("quality", "cost")}
    assert chosen == {"quality": "dear", "cost": "cheap"}
    decision = router.decide(asked(), rng())
    assert (decision.propensity, decision.exploratory) == (1.0, False)
    assert decision.order[0].score == pytest.approx(max(one.score for one in decision.order))


def test_no_candidate_is_an_error_in_every_engine() -> None:
    for router in (learning(), AveragingRouter(new_averages(facts())), FixedRouter({}, Experience())):
        with pytest.raises(ValueError, match="candidate"):
            router.decide(asked(candidates=()), rng())


def averaging(epsilon: float = 0.3) -> AveragingRouter:
    averages = MovingAverages(EmaSettings(epsilon=epsilon, least_samples=1))
    for model, value in (("cheap", 0.2), ("middle", 0.9), ("dear", 0.5)):
        averages.learn(FEATURES, model, value)
    return AveragingRouter(averages)


def test_moving_averages_explore_by_chance_and_tell_exact_odds() -> None:
    router, source = averaging(), rng()
    decisions = [router.decide(asked("quality"), source) for _ in range(3_000)]
    for model in ("cheap", "middle", "dear"):
        served = sum(decision.model == model for decision in decisions) / len(decisions)
        assert served == pytest.approx(0.8 if model == "middle" else 0.1, abs=0.03)
    for decision in decisions[:200]:
        odds = {one.model: one.propensity for one in decision.order}
        assert odds == pytest.approx({"cheap": 0.1, "middle": 0.8, "dear": 0.1})
        assert decision.propensity == odds[decision.model]
        assert decision.exploratory == (decision.model != "middle")


def test_an_unexplored_average_answers_with_the_best_first_and_the_others_in_order() -> None:
    assert averaging(0.0).decide(asked("quality"), rng()).models == ["middle", "dear", "cheap"]


def test_where_no_average_is_known_well_enough_the_reason_says_so() -> None:
    router = AveragingRouter(new_averages(facts(ema_epsilon=0.0)))
    assert router.decide(asked(), rng()).reason == (
        "cheap: 0.170 USD per 1,000 requests; the cheapest, as no model has enough ratings for such requests yet"
    )
    assert averaging(0.0).decide(asked("quality"), rng()).reason.endswith("; the best of the averages after cost")


def test_models_that_are_new_are_let_in_and_those_that_are_gone_are_remembered() -> None:
    engine = new_engine(facts(contestants={"cheap": Contestant("cheap"), "gone": Contestant("gone")}))
    engine.learn(Label("gone", FEATURES.vector, 0.3, 0.0))
    with_models(engine, facts())
    assert engine.models == ["cheap", "gone", "dear", "middle"]
    before = engine.to_bytes()
    assert with_models(engine, facts()).to_bytes() == before


def test_an_engine_starts_alike_whatever_the_order_of_the_models() -> None:
    backwards = facts(contestants=dict(reversed(facts().contestants.items())))
    assert new_engine(facts()).to_bytes() == new_engine(backwards).to_bytes()


def test_a_price_that_nobody_knows_is_none() -> None:
    assert candidate_of(Contestant("x", input_price=None, output_price=2.0)) == Candidate("x", 0.0, 2.0)


def test_what_was_weighed_is_told_in_columns_in_the_order_of_trial() -> None:
    for router in (learning(), averaging(0.0), FixedRouter(facts().published, Experience())):
        decision = router.decide(asked(), rng())
        data = decision.table().columns(decision.model)
        assert list(data["model"]) == list(decision.models)
        assert {len(column) for column in data.values()} == {3}
        assert decision.reason.startswith(f"{decision.model}: ")
