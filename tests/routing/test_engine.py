"""The router's engine: what it decides, what it learns and that replicas agree."""

import zlib

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from routing.candidate_table import COLUMNS
from routing.decision import Exploration, Label
from routing.engine import Engine, EngineSettings, UnreadableState
from routing.features import FeatureSpace, RequestFeatures
from routing.scores import Candidate, Taste
from routing.slate import about

MODELS = ("small", "middle", "large")
CANDIDATES = tuple(Candidate(model, price, price * 4) for model, price in zip(MODELS, (0.1, 1.0, 10.0), strict=True))
QUALITY = {"small": 0.5, "middle": 0.7, "large": 0.9}
SPACE = FeatureSpace()


def request(text: str = "What is the capital of France?", task: str = "qa") -> RequestFeatures:
    return SPACE.features(text, task, "simple")


def a_taught_engine(labels: int = 120, *, seed: int = 0, settings: EngineSettings | None = None) -> Engine:
    engine, rng = Engine.begin(MODELS, settings=settings), np.random.default_rng(seed)
    for number in range(labels):
        model = MODELS[number % 3]
        engine.learn(Label(model, request(f"question {number}").vector, QUALITY[model] + rng.normal(0, 0.1)))
        engine.observe(model, "qa", 100 + number, 0.5)
    return engine


def test_the_best_is_served_when_nothing_is_explored_and_the_reason_says_so():
    decision = a_taught_engine().decide(request(), CANDIDATES, taste=Taste())
    assert [one.model for one in decision.order] == ["large", "middle", "small"]
    assert decision.propensity == 1.0 and not decision.exploratory
    assert decision.reason.startswith("large: expected quality 0.") and "ahead of middle" in decision.reason


def test_cost_decides_when_it_weighs_enough():
    decision = a_taught_engine().decide(request(), CANDIDATES, taste=Taste(cost_weight=10.0))
    assert decision.model == "small"
    assert decision.order[0].cost < decision.order[-1].cost


def test_a_decision_is_the_same_for_the_same_generator():
    engine = a_taught_engine(9)
    made = [
        engine.decide(request(), CANDIDATES, taste=Taste(), explore=Exploration.SERVED, rng=np.random.default_rng(7))
        for _ in range(2)
    ]
    assert made[0] == made[1]


def test_what_is_expected_is_what_the_posterior_says():
    engine, asked = a_taught_engine(), request("Prove it.", "math")
    decision = engine.decide(asked, CANDIDATES, taste=Taste(cost_weight=0.05, latency_weight=0.02))
    mean, sd = engine.posterior.combined().expected(asked.vector)
    costs = engine.experience.costs(asked, CANDIDATES)
    for one in decision.order:
        place = MODELS.index(one.model)
        assert (one.mean, one.sd) == pytest.approx((mean[place], sd[place]), abs=1e-6)
        assert one.cost == pytest.approx(costs[place], abs=1e-6)
        lost = 0.05 * costs[place] + 0.02 * np.log(engine_latency(engine, one.model))
        assert one.penalty == pytest.approx(lost, abs=1e-6)


def engine_latency(engine: Engine, model: str) -> float:
    return float(np.exp(engine.experience.log_latencies([CANDIDATES[MODELS.index(model)]])[0]))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
def test_what_a_decision_says_does_not_change_when_more_is_learned(scales):
    engine = a_taught_engine(30, settings=EngineSettings(prior_scales=scales))
    decision, untouched = (engine.decide(request(), CANDIDATES, taste=Taste()) for _ in range(2))
    before = untouched.table()
    engine.learn(Label("large", request().vector, 0.0))
    engine.reopen("small")
    assert decision.table() == before
    assert engine.decide(request(), CANDIDATES, taste=Taste()).table() != before


def test_a_slate_that_is_kept_decides_like_a_new_one_and_follows_what_is_learned():
    engine, asked, taste = a_taught_engine(60), request(), Taste(cost_weight=0.02, latency_weight=0.01)
    slate = engine.slate(CANDIDATES[:2])
    for number in range(4):
        kept = engine.decide(asked, slate, taste=taste).table()
        assert kept == engine.decide(asked, CANDIDATES[:2], taste=taste).table()
        assert kept == Engine.from_bytes(engine.to_bytes()).decide(asked, CANDIDATES[:2], taste=taste).table()
        engine.learn(Label(MODELS[number % 2], asked.vector, 0.3))
        engine.observe("small", "qa", 5_000 * (number + 1), 9.0)


@pytest.mark.parametrize("tokens", [1, 31, 32, 500, 8_191, 8_192, 200_000])
def test_prompts_of_about_the_same_size_cost_the_same_to_within_three_per_cent(tokens):
    assert about(tokens) == pytest.approx(tokens, rel=0.032)
    assert about(about(tokens)) == about(tokens)
    engine, asked = a_taught_engine(), replace(request(), input_tokens=tokens)
    exact = engine.experience.costs(asked, CANDIDATES)
    for one in engine.decide(asked, CANDIDATES, taste=Taste(0.01)).order:
        assert one.cost == pytest.approx(exact[MODELS.index(one.model)], rel=0.032)


def test_points_of_rules_are_added_to_the_scores():
    engine = a_taught_engine()
    decision = engine.decide(request(), CANDIDATES, taste=Taste(), points=[1.0, 0.0, 0.0])
    assert decision.models == ["small", "large", "middle"]
    assert decision.order[0].score == pytest.approx(decision.order[0].mean + 1.0)
    assert decision.table().columns("small")["points"] == [1.0, 0.0, 0.0]
    assert "rules" in decision.reason
    with pytest.raises(ValueError, match="shorter"):
        engine.decide(request(), CANDIDATES, taste=Taste(), points=[1.0])


def test_the_data_of_a_decision_are_its_candidates_in_order():
    decision = a_taught_engine().decide(
        request(), CANDIDATES, taste=Taste(0.01), explore=Exploration.SERVED, rng=np.random.default_rng(3)
    )
    table = decision.table()
    data = table.columns(decision.model)
    assert data["model"] == decision.models == [one.model for one in decision.order]
    assert list(data) == ["model", *COLUMNS]
    assert list(decision.lead) == list(decision.order)[:2]
    for column in list(data)[1:]:
        assert data[column] == pytest.approx([getattr(one, column) for one in decision.order], abs=1e-6)
    assert len(table.numbers) == 4 * 7 * len(CANDIDATES)


def test_a_summary_tells_what_is_believed_of_each_model():
    engine = a_taught_engine(90)
    engine.learn(Label("large", request().vector, 0.3))
    small, _, large = engine.pool_summary()
    assert (small.model, small.labels, large.labels) == ("small", 30, 31)
    assert small.quality < large.quality and 0 < large.sd < 0.3
    assert 0 < large.drop < 1 and large.reopened is None
    engine.reopen("large")
    reopened = Engine.from_bytes(engine.to_bytes()).pool_summary()[2]
    assert reopened.sd > large.sd and reopened.reopened == 91 and reopened.labels == 31


def test_propensities_sum_to_one_and_are_how_often_a_model_is_chosen():
    engine, rng = Engine.begin(MODELS), np.random.default_rng(1)
    chosen, expected = dict.fromkeys(MODELS, 0), dict.fromkeys(MODELS, 0.0)
    for _ in range(3_000):
        decision = engine.decide(request(), CANDIDATES, taste=Taste(), explore=Exploration.SERVED, rng=rng)
        assert sum(one.propensity for one in decision.order) == pytest.approx(1.0, abs=1e-5)  # they are told rounded
        assert min(one.propensity for one in decision.order) >= 1 / 160
        chosen[decision.model] += 1
        for one in decision.order:
            expected[one.model] += one.propensity
    for model in MODELS:
        assert chosen[model] == pytest.approx(expected[model], abs=4.5 * np.sqrt(3_000 / 4))


def test_a_hopeless_model_is_not_explored():
    engine = Engine.begin(MODELS)
    for number in range(200):
        engine.learn(Label(MODELS[number % 3], request().vector, (0.0, 0.85, 0.9)[number % 3], 0.0))
    decision = engine.decide(
        request(), CANDIDATES, taste=Taste(), explore=Exploration.SERVED, rng=np.random.default_rng(0)
    )
    assert {one.model: one.propensity for one in decision.order}["small"] == 0.0


def test_a_shadow_pair_serves_the_best_and_never_challenges_it_with_itself():
    engine, rng = a_taught_engine(6), np.random.default_rng(2)
    for _ in range(50):
        decision = engine.decide(request(), CANDIDATES, taste=Taste(), explore=Exploration.SHADOW, rng=rng)
        assert not decision.exploratory and decision.propensity == 1.0
        assert decision.challenger not in (None, decision.model)
        assert 0 < decision.challenger_propensity <= 1


def test_replicas_that_apply_the_same_labels_agree_bit_for_bit():
    assert a_taught_engine().to_bytes() == a_taught_engine().to_bytes()


def test_a_state_that_was_stored_goes_on_exactly_as_the_one_that_was_not():
    settings = EngineSettings(prior_scales=(0.5, 1.0, 2.0))
    engine = a_taught_engine(50, settings=settings)
    restored = Engine.from_bytes(engine.to_bytes())
    for one in (engine, restored):
        one.learn(Label("small", request("and then?").vector, 0.9))
        one.add_model("newcomer", published=0.8)
    assert restored.to_bytes() == engine.to_bytes()
    assert restored.version == 51


@pytest.mark.parametrize("state", [b"", b"nonsense", Engine.begin(MODELS).to_bytes()[:-9]])
def test_bytes_that_are_no_state_are_refused(state):
    with pytest.raises(UnreadableState):
        Engine.from_bytes(state)


def test_a_new_model_borrows_what_is_known_of_all():
    engine = a_taught_engine(300)
    engine.add_model("newcomer")
    mean, sd = engine.posterior.combined().expected(request().vector)
    assert mean[3] == pytest.approx(0.7, abs=0.15)
    assert sd[3] > 1.5 * sd[:3].max()
    with pytest.raises(ValueError, match="already"):
        engine.add_model("newcomer")


def test_dearer_models_are_expected_to_be_better_only_until_something_better_is_known():
    prices = {"small": 0.1, "middle": 1.0, "large": 10.0}
    blank = Engine.begin(MODELS, prices=prices)
    assert blank.decide(request(), CANDIDATES, taste=Taste()).model == "large"
    told = Engine.begin(MODELS, prices=prices, published={"small": 0.9, "large": 0.5})
    assert told.decide(request(), CANDIDATES, taste=Taste()).model == "small"


def alarms_of(values: list[float]) -> list[int]:
    """Numbers of the labels that raised an alarm; one model after the other gets a label."""
    engine = Engine.begin(MODELS)
    return [
        number
        for number, value in enumerate(values)
        if engine.learn(Label(MODELS[number % 3], request().vector, value)).changed
    ]


def test_a_model_that_breaks_is_noticed_within_sixty_of_its_labels():
    noticed = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = (rng.random(480) < 0.85).astype(float)
        values[300::3] = rng.random(60) < 0.55
        noticed.append(any(number >= 300 and number % 3 == 0 for number in alarms_of(list(values))))
    assert sum(noticed) >= 17


def test_chance_raises_an_alarm_less_than_once_in_a_thousand_labels_of_a_model():
    alarms = 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        alarms += len(alarms_of(list((rng.random(900) < (0.6, 0.75, 0.9)[seed % 3]).astype(float))))
    assert alarms <= 16 * 900 / 1_000


def test_after_an_alarm_a_model_is_believed_to_be_what_it_is_now():
    engine, rng = Engine.begin(MODELS), np.random.default_rng(4)
    for number in range(360):
        chance = 0.3 if number % 3 == 2 and number >= 240 else 0.85
        engine.learn(Label(MODELS[number % 3], request().vector, float(rng.random() < chance)))
    assert 240 < engine.reopened["large"] < 360
    quality = {one.model: one.quality for one in engine.pool_summary()}
    assert quality["large"] < 0.55 < quality["small"]


def test_there_is_no_decision_without_candidates_or_without_chance_to_explore():
    engine = Engine.begin(MODELS)
    with pytest.raises(ValueError, match="no candidate"):
        engine.decide(request(), [], taste=Taste())
    with pytest.raises(ValueError, match="random"):
        engine.decide(request(), CANDIDATES, taste=Taste(), explore=Exploration.SERVED)


def shares_of(engine: Engine, model: str, explore: Exploration) -> float:
    """How probable it is that a model is tried out for a request."""
    rng, tried = np.random.default_rng(3), []
    for _ in range(300):
        decision = engine.decide(request(), CANDIDATES, taste=THRIFTY, explore=explore, rng=rng)
        if explore is Exploration.SERVED:
            return {one.model: one.propensity for one in decision.order}[model]
        tried.append(decision.challenger == model)
    return float(np.mean(tried))


@pytest.mark.parametrize("explore", [Exploration.SERVED, Exploration.SHADOW])
def test_a_model_that_was_reopened_is_tried_out_first_until_it_has_some_labels(explore):
    engine = Engine.begin(MODELS)
    for number in range(300):
        engine.learn(Label(MODELS[number % 3], request().vector, (0.1, 0.85, 0.9)[number % 3], 0.0))
    assert shares_of(engine, "small", explore) == 0.0
    engine.reopen("small")
    for _ in range(10):
        assert shares_of(engine, "small", explore) > 0.2
        engine = Engine.from_bytes(engine.to_bytes())
        engine.learn(Label("small", request().vector, 0.1, 0.0))
    assert shares_of(engine, "small", explore) < 0.1


def test_models_that_are_reopened_together_share_what_is_kept_for_them():
    engine = a_taught_engine(300)
    for model in ("small", "middle"):
        engine.reopen(model)
    decision = engine.decide(
        request(), CANDIDATES, taste=Taste(), explore=Exploration.SERVED, rng=np.random.default_rng(0)
    )
    odds = {one.model: one.propensity for one in decision.order}
    assert sum(odds.values()) == pytest.approx(1.0, abs=1e-5)
    assert min(odds["small"], odds["middle"]) > 0.1 and odds["large"] > 0.4


def test_a_state_from_before_labels_were_counted_anew_is_still_read():
    engine = a_taught_engine(30)
    stored = msgspec.msgpack.decode(zlib.decompress(engine.to_bytes()))
    older = zlib.compress(msgspec.msgpack.encode(stored[:-1]))
    assert Engine.from_bytes(older).labels_since == {"small": 10, "middle": 10, "large": 10}


def test_the_reason_names_only_what_counted():
    engine, alike = a_taught_engine(), [Candidate(model, 1.0, 0.0) for model in MODELS]  # nobody is the cheapest
    reasons = [
        engine.decide(request(), alike, taste=taste, points=points).reason.partition(" ahead of ")[2]
        for taste, points in (
            (Taste(), None),
            (Taste(cost_weight=0.01), None),
            (Taste(latency_weight=0.01), None),
            (Taste(0.01, 0.01), None),
            (Taste(0.01, 0.01), [0.0, 0.0, 0.1]),
            (Taste(), [0.0, 0.0, 0.1]),
        )
    ]
    assert [reason.partition(" after ")[2] for reason in reasons] == [
        "", "cost", "latency", "cost and latency", "cost, latency and rules", "rules",
    ]  # fmt: skip


PRICES = {"small": 0.1, "middle": 1.0, "large": 10.0}
THRIFTY = Taste(cost_weight=1e-6)  # so little that it decides nothing by itself


def rated(engine: Engine, ratings: dict[str, float], times: int) -> Engine:
    for number in range(times):
        for model, rating in ratings.items():
            engine.learn(Label(model, request(f"question {number}").vector, rating, 0.0))
    return engine


def test_a_dearer_model_answers_once_it_is_ahead_by_more_than_may_be_chance():
    """By the price alone it is expected to be better; the first ratings of all are no reason to believe it is."""
    engine = rated(Engine.begin(MODELS, prices=PRICES), {"small": 0.7, "large": 0.75}, 2)
    means = dict(zip(MODELS, engine.posterior.combined().expected(request().vector)[0], strict=True))
    assert means["large"] > means["small"]
    assert engine.decide(request(), CANDIDATES, taste=THRIFTY).model == "small"
    assert rated(engine, {"small": 0.6, "large": 0.9}, 60).decide(request(), CANDIDATES, taste=THRIFTY).model == "large"


def test_who_asks_for_quality_alone_is_not_given_the_cheapest_for_want_of_evidence():
    engine = rated(Engine.begin(MODELS, prices=PRICES), {"small": 0.7, "large": 0.75}, 2)
    assert engine.decide(request(), CANDIDATES, taste=Taste()).model == "large"
    leads = [engine.leads([request()], CANDIDATES, taste)[0, 1:] for taste in (Taste(), THRIFTY)]
    assert (leads[0] < leads[1] / 3).all()


def test_a_published_score_needs_less_of_a_lead_than_a_price():
    told = dict.fromkeys(MODELS, 0.7)
    leads = [
        rated(Engine.begin(MODELS, prices=PRICES, published=published), {"small": 0.7}, 1).leads(
            [request()], CANDIDATES, THRIFTY
        )
        for published in (told, None)
    ]
    assert (leads[0][0, 1:] < leads[1][0, 1:] / 2).all() and (leads[0][0, 1:] > 0).all()
    assert leads[0][0, 0] == leads[1][0, 0] == 0


def test_nobody_must_be_ahead_where_all_cost_the_same():
    engine = rated(Engine.begin(MODELS), {"small": 0.7}, 3)
    assert not engine.leads([request()], [Candidate(model, 1.0, 1.0) for model in MODELS], THRIFTY).any()


def test_ratings_of_some_models_tell_what_prices_say_of_the_others():
    def of_large(ratings: dict[str, float]) -> float:
        engine = rated(Engine.begin(MODELS, prices=PRICES), ratings, 40)
        small, _, large = engine.posterior.combined().expected(request().vector)[0]
        return float(large - small)

    assert of_large({"small": 0.5, "middle": 0.9}) > 0.25
    assert of_large({"small": 0.9, "middle": 0.5}) < -0.1


@pytest.mark.parametrize("explore", [Exploration.SERVED, Exploration.SHADOW])
def test_the_cheapest_is_judged_until_it_is_told_apart_from_the_best_other(explore):
    engine = rated(Engine.begin(MODELS, prices=PRICES), {"small": 0.4, "middle": 0.5, "large": 0.9}, 10)
    assert engine.decide(request(), CANDIDATES, taste=Taste()).model == "large"
    assert shares_of(engine, "small", explore) > 0.2
    assert shares_of(rated(engine, {"small": 0.4, "large": 0.9}, 150), "small", explore) < 0.2


def test_a_cheapest_model_that_may_have_broken_holds_nobody_back():
    engine = rated(Engine.begin(MODELS, prices=PRICES), {"small": 0.8, "middle": 0.75, "large": 0.75}, 30)
    assert engine.leads([request()], CANDIDATES, THRIFTY)[0, 1:].min() > 0
    engine.reopen("small")
    assert not engine.leads([request()], CANDIDATES, THRIFTY).any()
    assert engine.leads([request()], CANDIDATES[1:], THRIFTY)[0].tolist()[0] == 0


def test_a_state_from_before_there_was_caution_is_still_read_and_decides_with_it():
    engine = rated(Engine.begin(MODELS), {"small": 0.7}, 3)
    stored = msgspec.msgpack.decode(zlib.decompress(engine.to_bytes()))
    newer = ("caution", "incumbent", "price_decade_sd", "published_caution", "labels_of_incumbent")
    stored[3] = {name: value for name, value in stored[3].items() if not name.startswith(newer)}
    restored = Engine.from_bytes(zlib.compress(msgspec.msgpack.encode(stored)))
    assert restored.settings == engine.settings
    assert (restored.leads([request()], CANDIDATES, THRIFTY) == engine.leads([request()], CANDIDATES, THRIFTY)).all()
