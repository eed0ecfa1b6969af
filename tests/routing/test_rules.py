"""Rules together: what always holds, a tenant's order, soft rules, what is refused on save, and what is told."""

import re
import time
from pathlib import Path

import pytest
import yaml

from gateway.wire.types import Needs
from routing.candidates import WELL, Asked, Condition, Contestant
from routing.rules import ALWAYS, MOST_RULES, RULES, Narrowed, check_rules, narrow, told

SMALL = Contestant("small", "acme", "openai", 0.1, 0.4, 8_192, 4_096, frozenset({"tools"}), "eu-west")
MIDDLE = Contestant("middle", "acme", "openai", 1.0, 4.0, 128_000, 16_000, frozenset({"tools", "vision"}), "us-east")
LARGE = Contestant("large", "best", "anthropic", 3.0, 15.0, 200_000, 64_000, frozenset({"tools", "vision"}), "eu-west")
FIELD = (SMALL, MIDDLE, LARGE)


def asked(now: dict[str, Condition] | None = None, **known: object) -> Asked:
    conditions = now or {}
    plain = {"task": "qa", "complexity": "simple", "confidence": 0.9, "needs": Needs(), "input_tokens": 100}
    plain |= {"max_tokens": None, "text": "What is the capital of France?"}
    return Asked(**plain | known, now=lambda name: conditions.get(name, WELL))  # type: ignore[arg-type]


def left(narrowed: Narrowed) -> list[str]:
    return [one.name for one in narrowed.field]


def test_a_plain_request_leaves_everybody_and_the_very_same_field():
    narrowed = narrow(asked(), FIELD)
    assert narrowed.field is FIELD
    assert not narrowed.removed and not narrowed.points and not narrowed.skipped


def test_what_always_holds_is_applied_in_its_order_and_each_removal_has_one_reason():
    unpriced = Contestant("unpriced")
    narrowed = narrow(
        asked({"large": Condition(circuit_open=True)}, needs=Needs(vision=True), input_tokens=9_000),
        (*FIELD, unpriced),
    )
    assert [rule.NAME for rule in ALWAYS] == ["capability", "context", "health", "price"]
    assert left(narrowed) == ["middle"]
    assert narrowed.removed == {
        "small": ("capability", "images"),
        "large": ("health", "circuit breaker open"),
        "unpriced": ("price", "price unknown"),
    }


def test_a_price_is_compared_only_among_those_who_are_left():
    priced, unpriced = Contestant("priced", input_price=1.0, output_price=1.0), Contestant("unpriced")
    narrowed = narrow(asked({"priced": Condition(paused_s=3)}), (priced, unpriced))
    assert left(narrowed) == ["unpriced"]


def test_what_always_holds_may_leave_nobody_and_the_tenants_rules_are_not_asked_then():
    narrowed = narrow(asked(input_tokens=1_000_000), FIELD, [{"rule": "cheapest", "keep": 1, "soft": True}])
    assert left(narrowed) == [] and narrowed.skipped == []
    assert {rule for rule, _ in narrowed.removed.values()} == {"context"}


def test_the_order_of_a_tenants_rules_matters():
    cheapest, european = {"rule": "cheapest", "keep": 2}, {"rule": "region", "allow": ["eu-*"]}
    assert left(narrow(asked(), FIELD, [cheapest, european])) == ["small"]
    assert left(narrow(asked(), FIELD, [european, cheapest])) == ["small", "large"]


def test_a_tenants_rule_may_leave_nobody():
    narrowed = narrow(asked(), FIELD, [{"rule": "region", "allow": ["ap-south"]}, {"rule": "cheapest", "keep": 1}])
    assert left(narrowed) == []
    assert told(narrowed.removed) == "region removed small, large (region eu-west), middle (region us-east)"


def test_a_soft_rule_that_would_leave_nobody_is_skipped_and_noted():
    soft = {"rule": "region", "allow": ["ap-south"], "soft": True}
    narrowed = narrow(asked(), FIELD, [soft, {"rule": "cheapest", "keep": 1}])
    assert left(narrowed) == ["small"]
    assert narrowed.skipped == [("region", "would have removed small, middle, large")]
    assert "region" not in {rule for rule, _ in narrowed.removed.values()}


def test_a_soft_rule_that_leaves_somebody_counts_like_any_other():
    narrowed = narrow(asked(), FIELD, [{"rule": "region", "allow": ["us-*"], "soft": True}])
    assert left(narrowed) == ["middle"] and narrowed.skipped == []


def test_points_of_several_rules_add_up_and_only_those_who_are_left_have_any():
    now = {"small": Condition(first_token_s=0.2), "middle": Condition(first_token_s=0.4, budget_left=0.5)}
    rules = [
        {"rule": "performance", "points": 0.1},
        {"rule": "budget_remaining", "points": 0.2},
        {"rule": "models", "deny": ["large"]},
    ]
    narrowed = narrow(asked(now), FIELD, rules)
    assert narrowed.points == pytest.approx({"small": 0.1 + 0.2, "middle": 0.05 + 0.1})


def test_the_answer_of_a_model_that_was_asked_counts_at_its_place():
    rules = [{"rule": "models", "deny": ["small"]}, {"rule": "llm", "model": "small"}, {"rule": "cheapest", "keep": 1}]
    assert left(narrow(asked(), FIELD, rules, '{"models": ["large"]}')) == ["large"]
    unasked = narrow(asked(), FIELD, rules)
    assert left(unasked) == ["middle"] and unasked.skipped == [("llm", "not asked")]
    unclear = narrow(asked(), FIELD, rules, "small, of course")
    assert left(unclear) == ["middle"] and unclear.skipped == [("llm", "the answer names no candidate")]


def test_what_was_removed_is_told_by_rule_and_reason():
    removed = {
        "small": ("capability", "images"),
        "large": ("context", "needs 9,000 tokens, has 8,192"),
        "tiny": ("capability", "images"),
        "base": ("capability", "tools"),
    }
    assert told(removed) == (
        "capability removed small, tiny (images), base (tools); context removed large (needs 9,000 tokens, has 8,192)"
    )
    assert told({}) == ""


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"rule": "cheapest"}, "rules must be a list"),
        (["cheapest"], "rule 1: it must say which rule it is"),
        ([{"keep": 1}], "rule 1: it must say which rule it is"),
        ([{"rule": ["cheapest"]}], "rule 1: it must say which rule it is"),
        ([{"rule": "cheepest", "keep": 1}], "rule 1: there is no rule 'cheepest'; did you mean 'cheapest'?"),
        ([{"rule": "price"}], "rule 1: there is no rule 'price': it always holds"),
        ([{"rule": "zzz"}], "there are capability, context, cheapest"),
        (
            [{"rule": "cheapest", "keep": 1}, {"rule": "cheapest", "keep": 0}],
            "rule 2 (cheapest): 'keep' must be a whole",
        ),
        ([{"rule": "cheapest", "keep": 1, "soft": "yes"}], "rule 1 (cheapest): 'soft' must be true or false"),
        ([{"rule": "llm", "model": "a"}] * 2, "rule 2 (llm): there may be one of this rule only"),
        ([{"rule": "cheapest", "keep": 1}] * (MOST_RULES + 1), "there may be 30 rules at most, these are 31"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_with_its_place_and_reason(rules: object, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_rules(rules)


def test_a_policy_with_every_rule_is_accepted_and_followed():
    intents = [{"name": "sql", "examples": ["Write a SQL query"], "models": ["*"]}]
    rules = [
        {"rule": "capability", "require": ["tools"]},
        {"rule": "context", "reserve_tokens": 2_000, "prefer": "smallest", "points": 0.02},
        {"rule": "health", "least_success_rate": 0.9},
        {"rule": "performance", "most_first_token_s": 5, "points": 0.05},
        {"rule": "rate_limit", "least_headroom": 0.1},
        {"rule": "fairness", "most_share": 0.9, "points": 0.05},
        {"rule": "budget_remaining", "least_left": 0.05, "points": 0.05},
        {"rule": "semantic_intent", "intents": intents, "threshold": 0.8},
        {"rule": "region", "allow": ["*"]},
        {"rule": "models", "task": ["qa", "math"], "complexity": "simple", "deny": ["nobody"], "least_confidence": 0.5},
        {"rule": "cheapest", "keep": 3, "within": 100, "soft": True},
        {"rule": "llm", "model": "small", "descriptions": {"small": "quick"}, "timeout_s": 1.5},
    ]
    assert {rule["rule"] for rule in rules} == set(RULES)
    check_rules(rules)
    narrowed = narrow(asked(), FIELD, rules, "small")
    assert left(narrowed) == ["small"] and set(narrowed.points) == {"small"}


def test_twelve_healthy_candidates_are_looked_through_in_no_time():
    field = tuple(Contestant(f"model-{n}", "acme", "openai", 1.0, 4.0, 128_000, 16_000) for n in range(12))
    request, fastest = asked(), float("inf")
    for _ in range(200):
        began = time.perf_counter()
        narrow(request, field)
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 100e-6  # about 3 microseconds where nothing else runs


def test_every_example_of_the_documentation_is_a_policy_that_can_be_followed():
    page = (Path(__file__).parents[2] / "docs" / "routing-rules.md").read_text()
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    policies = [
        example["tenants"][0]["routing"]["rules"] if "tenants" in example else example["rules"] for example in examples
    ]
    assert len(policies) == 4
    for rules in policies:
        check_rules(rules)
    assert {rule["rule"] for rules in policies for rule in rules} == set(RULES)
