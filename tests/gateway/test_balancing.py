import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.balancing import Balancer
from gateway.policy import ModelFacts
from gateway.providers.target import Target


def target(name: str, weight: int = 1) -> Target:
    return Target(
        provider_id=name,
        provider_name=name,
        kind="openai-compatible",
        base_url="https://vendor.example/v1",
        provider_key_id=f"key-{name}",
        secret="sk-secret",
        model_id="m",
        model_name="small",
        vendor_model="small-1",
        weight=weight,
    )


def model(*targets: Target, balancing: str = "weighted") -> ModelFacts:
    return ModelFacts(
        name="small",
        modality="chat",
        fallbacks=(),
        targets=targets,
        provider_name="a",
        vendor_model="small-1",
        context_window=None,
        capabilities=frozenset(),
        created_at=0,
        balancing=balancing,
    )


def balancer(seed: int = 7, **latency_s: float) -> Balancer:
    return Balancer(lambda circuit: latency_s.get(circuit.split("/")[0].removeprefix("key-")), random.Random(seed))


def first(of: Balancer, facts: ModelFacts, affinity: str | None = None) -> str:
    return of.targets([facts], affinity)[0].provider_name


WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=8)
RULES = st.sampled_from(["ordered", "weighted", "least_latency"])


@given(weights=WEIGHTS, rule=RULES, affinity=st.none() | st.text(max_size=20), seed=st.integers())
def test_every_deployment_is_there_once_and_those_in_reserve_come_last(weights, rule, affinity, seed):
    facts = model(*(target(f"p{number}", weight) for number, weight in enumerate(weights)), balancing=rule)
    ordered = balancer(seed).targets([facts], affinity)
    assert sorted(found.provider_name for found in ordered) == sorted(t.provider_name for t in facts.targets)
    if rule != "ordered":
        assert [found.weight > 0 for found in ordered] == sorted((w > 0 for w in weights), reverse=True)


def test_ordered_deployments_stay_as_they_stand():
    facts = model(target("a"), target("b", 9), balancing="ordered")
    assert {first(balancer(seed), facts, affinity) for seed in range(20) for affinity in (None, "s")} == {"a"}


def test_shares_follow_the_weights():
    facts, draws = model(target("a", 1), target("b", 3), target("c", 6)), 20_000
    of = balancer()
    counts = Counter(first(of, facts) for _ in range(draws))
    for name, share in (("a", 0.1), ("b", 0.3), ("c", 0.6)):
        assert abs(counts[name] / draws - share) < 4 * (share * (1 - share) / draws) ** 0.5


def test_conversations_share_deployments_by_weight_and_stay_with_theirs():
    facts, sessions = model(target("a", 1), target("b", 3)), 20_000
    homes = {f"s{number}": first(balancer(number), facts, f"s{number}") for number in range(sessions)}
    assert abs(Counter(homes.values())["b"] / sessions - 0.75) < 0.02
    assert all(first(balancer(), facts, session) == home for session, home in list(homes.items())[:500])


def test_only_the_conversations_of_a_deployment_that_leaves_move():
    three, two = model(target("a"), target("b"), target("c")), model(target("a"), target("b"))
    for number in range(2000):
        home = first(balancer(), three, f"s{number}")
        if home != "c":
            assert first(balancer(), two, f"s{number}") == home


def test_the_fastest_is_first_and_one_nobody_has_measured_gets_its_chance():
    facts = model(target("a"), target("b"), target("c"), balancing="least_latency")
    of = balancer(a=0.5, b=0.1)
    counts = Counter(first(of, facts) for _ in range(2000))
    assert set(counts) == {"b", "c"}
    assert 0.02 < counts["c"] / 2000 < 0.09


def test_without_any_measurement_the_fastest_is_drawn_by_weight():
    facts = model(target("a"), target("b"), balancing="least_latency")
    of = balancer()
    assert 0.4 < Counter(first(of, facts) for _ in range(1000))["a"] / 1000 < 0.6


def test_fallbacks_follow_with_all_their_deployments():
    ordered = balancer().targets([model(target("a"), target("b"), balancing="ordered"), model(target("c"))], None)
    assert [found.provider_name for found in ordered] == ["a", "b", "c"]
