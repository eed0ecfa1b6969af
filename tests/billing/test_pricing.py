from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from billing.pricing import DEARER_TIERS, PRICE_OF_TIER, SERVICE_PRICES, Price, PricedVersion, select, to_usd
from gateway.wire.types import ServiceTier, Usage

CLASSES = (
    "input",
    "output",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
MILLION = Decimal(1_000_000)

decimals = st.decimals(min_value=0, max_value=10_000, places=6)
usages = st.builds(Usage, **{name: st.integers(0, 10_000_000) for name in CLASSES})
price_lists = st.fixed_dictionaries(dict.fromkeys(CLASSES, decimals))


@given(price_lists, decimals, usages)
def test_cost_is_what_decimal_arithmetic_says(prices: dict[str, Decimal], per_request: Decimal, usage: Usage) -> None:
    expected = per_request + sum(getattr(usage, name) * prices[name] / MILLION for name in CLASSES)
    assert to_usd(Price.from_decimals("v", per_request=per_request, **prices).cost(usage)) == expected


@given(price_lists, usages)
def test_cost_is_the_sum_over_its_classes_and_never_negative(prices: dict[str, Decimal], usage: Usage) -> None:
    price = Price.from_decimals("v", **prices)
    assert price.cost(usage) == sum(price.cost(Usage(**{name: getattr(usage, name)})) for name in CLASSES) >= 0


@given(price_lists, price_lists, st.integers(0, 10_000_000), usages, st.integers(1, 4))
def test_no_usage_costs_more_than_its_upper_bound(
    prices: dict[str, Decimal], dearer: dict[str, Decimal], above: int, usage: Usage, choices: int
) -> None:
    tier = {"above_input_tokens": above, **dearer}
    price = Price.from_decimals("v", per_request="0.01", tiers=[tier], **prices)
    per_choice = -(-usage.total_output // choices)
    assert price.cost(usage) <= price.upper_bound(usage.total_input, per_choice, choices)


def test_one_cached_token_at_the_smallest_price_is_one_pico_usd() -> None:
    price = Price.from_decimals("v", input="1", output="1", cached_input="0.000001")
    assert to_usd(price.cost(Usage(cached_input=1))) == Decimal("0.000000000001")


def test_class_without_a_price_is_charged_as_its_base() -> None:
    price = Price.from_decimals("v", input="2", output="8", cached_input=None)
    for name in ("cached_input", "cache_write_5m", "cache_write_1h", "audio_input"):
        assert price.cost(Usage(**{name: 3})) == price.cost(Usage(input=3))
    for name in ("reasoning", "audio_output"):
        assert price.cost(Usage(**{name: 3})) == price.cost(Usage(output=3))


def test_class_that_is_free_is_not_charged_as_its_base() -> None:
    assert Price.from_decimals("v", input="2", output="8", cached_input="0").cost(Usage(cached_input=5)) == 0


def test_every_token_of_a_long_prompt_costs_what_its_tier_says() -> None:
    tiers = [
        {"above_input_tokens": 500_000, "input": "9"},
        {"above_input_tokens": 200_000, "input": "2.5", "output": "15"},
    ]
    price = Price.from_decimals("v", input="1.25", output="10", cached_input="0.1", tiers=tiers)
    assert to_usd(price.cost(Usage(input=200_000, output=1))) == Decimal("0.25") + Decimal("0.00001")
    assert to_usd(price.cost(Usage(input=200_001, output=1))) == Decimal("0.5000025") + Decimal("0.000015")
    assert to_usd(price.cost(Usage(input=500_001, output=1))) == Decimal("4.500009") + Decimal("0.00001")


def test_length_of_a_prompt_counts_its_cached_tokens() -> None:
    price = Price.from_decimals("v", input="1", output="1", tiers=[{"above_input_tokens": 10, "output": "3"}])
    assert price.cost(Usage(input=5, cached_input=6, output=1)) == 11_000_000 + 3_000_000


def test_class_a_tier_does_not_name_keeps_its_own_price() -> None:
    tiers = [{"above_input_tokens": 10, "input": "4"}]
    price = Price.from_decimals("v", input="2", output="8", cached_input="0.5", tiers=tiers)
    assert to_usd(price.cost(Usage(cached_input=1_000_000))) == Decimal("0.5")
    assert to_usd(price.cost(Usage(cache_write_5m=1_000_000))) == 4


@given(price_lists, price_lists, price_lists, st.integers(0, 10_000_000), usages)
def test_no_usage_costs_more_than_its_upper_bound_whatever_its_tier_of_service(
    prices: dict[str, Decimal], other: dict[str, Decimal], long: dict[str, Decimal], above: int, usage: Usage
) -> None:
    tier = {"above_input_tokens": above, **long}
    price = Price.from_decimals("v", batch=long, priority=other | {"tiers": [tier]}, **prices)
    bound = price.upper_bound(usage.total_input, usage.total_output)
    for service_tier in get_args(ServiceTier):
        assert price.cost(structs.replace(usage, service_tier=service_tier)) <= bound


def test_what_was_served_as_a_batch_or_in_the_flex_tier_costs_what_that_costs() -> None:
    batch = {"input": "1", "output": "4"}
    price = Price.from_decimals("v", input="2", output="8", cached_input="0.5", per_request="0.001", batch=batch)
    costs = {}
    for tier in ("", "batch", "flex", "priority"):
        costs[tier] = to_usd(price.cost(Usage(input=1_000_000, output=1_000_000, service_tier=tier)))
    standard, halved = Decimal("10.001"), Decimal("5.001")
    assert costs == {"": standard, "priority": standard, "batch": halved, "flex": halved}


def test_what_was_served_in_the_priority_tier_costs_what_that_costs_at_any_length() -> None:
    tiers = [{"above_input_tokens": 10, "input": "3"}]
    dearer = {"input": "4", "tiers": [{"above_input_tokens": 20, "input": "6", "output": "9"}]}
    price = Price.from_decimals("v", input="2", output="8", tiers=tiers, batch={"input": "1"}, priority=dearer)
    prices = {
        length: price.token_prices(Usage(input=length, service_tier="priority")) for length in (10, 11, 21)
    }  # fmt: skip
    assert {length: (each.input, each.output) for length, each in prices.items()} == {
        10: (4_000_000, 8_000_000),
        11: (4_000_000, 8_000_000),
        21: (6_000_000, 9_000_000),
    }
    assert price.token_prices(Usage(input=10)).input == 2_000_000


def test_every_tier_of_service_has_a_price_or_may_cost_more() -> None:
    assert set(PRICE_OF_TIER) | DEARER_TIERS == set(get_args(ServiceTier)) - {""}
    assert set(SERVICE_PRICES) <= set(Price.__struct_fields__)


def test_what_a_dearer_tier_costs_is_known_only_where_it_has_a_price() -> None:
    bare = Price.from_decimals("v", input="2", output="8")
    full = Price.from_decimals("v", input="2", output="8", priority={"input": "4"})
    known = {tier: (bare.covers(tier), full.covers(tier)) for tier in get_args(ServiceTier)}
    assert known == {
        "": (True, True), "batch": (True, True), "flex": (True, True), "priority": (False, True),
        "ultrafast": (False, False), "other": (False, False),
    }  # fmt: skip


def test_a_hold_is_by_the_priority_price_only_where_a_call_may_be_served_so() -> None:
    price = Price.from_decimals("v", input="2", output="8", priority={"input": "4", "output": "16"})
    assert price.dearest(100) == (4_000_000, 16_000_000)
    assert price.dearest(100, priority=False) == (2_000_000, 8_000_000)


def test_what_a_batch_price_does_not_name_costs_the_same() -> None:
    price = Price.from_decimals("v", input="2", output="8", cached_input="0.5", batch={"input": "1"})
    served = Usage(cached_input=1_000_000, output=1_000_000, service_tier="batch")
    assert to_usd(price.cost(served)) == Decimal("8.5")


def test_a_batch_price_holds_for_prompts_of_any_length_but_for_its_own_tiers() -> None:
    tiers = [{"above_input_tokens": 10, "input": "4", "output": "16"}]
    names_input = {"input": "1", "tiers": [{"above_input_tokens": 20, "input": "3"}]}
    price = Price.from_decimals("v", input="2", output="8", tiers=tiers, batch=names_input)
    prices = {
        length: price.token_prices(Usage(input=length, service_tier="flex")) for length in (10, 11, 20, 21)
    }  # fmt: skip
    assert {length: (each.input, each.output) for length, each in prices.items()} == {
        10: (1_000_000, 8_000_000),
        11: (1_000_000, 16_000_000),
        20: (1_000_000, 16_000_000),
        21: (3_000_000, 16_000_000),
    }


def test_a_hold_is_by_the_standard_price_unless_that_of_a_batch_is_higher() -> None:
    cheaper = Price.from_decimals("v", input="2", output="8", batch={"input": "1", "output": "9"})
    assert cheaper.dearest(100) == (2_000_000, 9_000_000)


def test_a_discount_comes_off_a_batch_price_too() -> None:
    price = Price.from_decimals("v", input="2", output="8", batch={"input": "1"})
    discounted = structs.replace(price, discount_bp=1_000)
    assert to_usd(discounted.cost(Usage(input=1_000_000, service_tier="flex"))) == Decimal("0.9")


@pytest.mark.parametrize(
    "wrong",
    [{"magic": "1"}, {"per_request": "1"}, {"input": "-1"}, {"tiers": [{"input": "1"}]}, {"batch": {}}],
    ids=str,
)
def test_refuses_batch_prices_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"price|token class|above_input_tokens"):
        Price.from_decimals("v", input="2", output="8", batch=wrong)


@pytest.mark.parametrize("bad", ["-0.01", "0.0000001", "NaN", "Infinity"])
def test_refuses_prices_that_cannot_be_exact(bad: str) -> None:
    for name in ("input", "output", "cached_input", "per_request"):
        with pytest.raises(ValueError, match="price"):
            Price.from_decimals("v", **{"input": "1", "output": "1", name: bad})
    with pytest.raises(ValueError, match="price"):
        Price.from_decimals("v", input="1", output="1", tiers=[{"above_input_tokens": 1, "input": bad}])


def test_refuses_unknown_classes_and_tiers_without_a_length() -> None:
    with pytest.raises(ValueError, match="video"):
        Price.from_decimals("v", input="1", output="1", video="1")
    for above in (None, -1, "200000", True):
        with pytest.raises(ValueError, match="above_input_tokens"):
            Price.from_decimals("v", input="1", output="1", tiers=[{"above_input_tokens": above}])


# --------------------------------------------------------------------------- which version applies


def version(name: str, *, days_ago: int = 1, **applies_to: str) -> PricedVersion:
    price = Price.from_decimals(name, input="1", output="1")
    return PricedVersion(price=price, effective_from=NOW - timedelta(days=days_ago), **applies_to)


def chosen(*versions: PricedVersion) -> str | None:
    """The version in force now for vendor model gpt-4o-mini, whatever the order they come in."""
    found = {
        price.version_id if price else None
        for order in (versions, versions[::-1])
        for price in [
            select(order, provider_kind="openai", vendor_model="gpt-4o-mini", model_id="m", tenant_id="t", at=NOW)
        ]
    }
    (only,) = found
    return only


BY_RISING_RANK = (
    version("any kind, short", vendor_model_pattern="gpt-*"),
    version("kind, short", vendor_model_pattern="gpt-*", provider_kind="openai"),
    version("kind, long", vendor_model_pattern="gpt-4o-*", provider_kind="openai"),
    version("kind, exact", vendor_model_pattern="gpt-4o-mini", provider_kind="openai"),
    version("tenant, short", vendor_model_pattern="g*", tenant_id="t"),
    version("model", model_id="m", days_ago=100),
    version("tenant and model", model_id="m", tenant_id="t", days_ago=200),
)


@pytest.mark.parametrize("rank", range(len(BY_RISING_RANK)))
def test_the_more_specific_price_wins(rank: int) -> None:
    candidates = BY_RISING_RANK[: rank + 1]
    assert chosen(*candidates) == candidates[-1].price.version_id


def test_exact_name_wins_over_a_pattern_that_is_longer() -> None:
    assert (
        chosen(version("glob", vendor_model_pattern="gpt-4o-mini*"), version("x", vendor_model_pattern="gpt-4o-mini"))
        == "x"
    )


def test_latest_of_equals_wins_and_the_future_does_not_count() -> None:
    versions = [version(f"{days}", model_id="m", days_ago=days) for days in (30, 2, -1)]
    assert chosen(*versions) == "2"


def test_price_holds_from_its_very_moment() -> None:
    assert chosen(version("now", model_id="m", days_ago=0)) == "now"


def test_no_price_is_known_when_nothing_applies() -> None:
    assert (
        chosen(
            version("other tenant", vendor_model_pattern="*", tenant_id="u"),
            version("other model", model_id="n"),
            version("other kind", vendor_model_pattern="*", provider_kind="azure"),
            version("other name", vendor_model_pattern="gpt-4"),
            version("not yet", vendor_model_pattern="*", days_ago=-1),
        )
        is None
    )
