"""The rules about what a candidate is and can: each at its edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models import CAPABILITIES
from gateway.policy import _NEEDS
from gateway.wire.types import Needs
from routing.candidates import NOTHING, WELL, Asked, Condition, Contestant, all_well
from routing.rules import Ease, capability, context, health, narrow, price


def asked(now: dict[str, Condition] | None = None, *, well: bool = False, **known: object) -> Asked:
    conditions = now or {}
    plain = {"task": "qa", "complexity": "simple", "confidence": 0.9, "needs": Needs(), "input_tokens": 100}
    tells = all_well if well else lambda name: conditions.get(name, WELL)
    return Asked(**plain | {"max_tokens": None, "text": ""} | known, now=tells)


def test_who_lacks_what_a_request_needs_is_removed_and_all_that_is_missing_is_named():
    field = (
        Contestant("all", capabilities=frozenset({"vision", "json_schema"})),
        Contestant("blind", capabilities=frozenset({"json_schema"})),
        Contestant("neither", capabilities=frozenset({"tools"})),
        Contestant("unknown"),
    )
    verdict = capability.apply(asked(needs=Needs(vision=True, json_schema=True)), field, {})
    assert verdict.removed == {"blind": "images", "neither": "images, structured output by a JSON schema"}


def test_a_tenant_may_require_more_than_the_request_needs():
    field = (
        Contestant("thinks", capabilities=frozenset({"reasoning"})),
        Contestant("not", capabilities=frozenset("x")),
    )
    assert capability.apply(asked(), field, {}) is NOTHING
    assert capability.apply(asked(), field, {"require": ["reasoning"]}).removed == {"not": "reasoning"}


def test_needs_are_called_what_they_are_called_for_a_named_model():
    assert capability.WORDS == _NEEDS
    assert set(capability.REQUIRABLE) == set(CAPABILITIES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "it needs 'require'"),
        ({"require": "tools"}, "must be a list"),
        ({"require": []}, "one or several of"),
        ({"require": ["telepathy"]}, "one or several of 'vision', 'audio'"),
        ({"requires": ["tools"]}, "'requires' is no option of this rule: it takes 'require'"),
    ],
)
def test_required_capabilities_must_be_known_ones(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        capability.check(options)


def test_prompt_and_answer_must_fit_into_the_window_to_the_token():
    field = (Contestant("small", context_window=8_192), Contestant("unknown"))
    assert context.apply(asked(input_tokens=8_000, max_tokens=192), field, {}) is NOTHING
    verdict = context.apply(asked(input_tokens=8_000, max_tokens=193), field, {})
    assert verdict.removed == {"small": "needs 8,193 tokens, has 8,192"}


def test_without_max_tokens_some_are_reserved_for_the_answer_but_no_more_than_the_model_gives():
    field = (
        Contestant("long", context_window=8_192),
        Contestant("short", context_window=8_192, max_output_tokens=192),
    )
    assert context.apply(asked(input_tokens=8_192 - context.RESERVED_TOKENS), field, {}) is NOTHING
    assert list(context.apply(asked(input_tokens=8_000), field, {}).removed) == ["long"]
    assert list(context.apply(asked(input_tokens=100), field, {"reserve_tokens": 8_093}).removed) == ["long"]


def test_who_gives_less_output_than_is_asked_for_is_removed():
    field = (Contestant("brief", context_window=100_000, max_output_tokens=4_096),)
    assert context.apply(asked(max_tokens=4_096), field, {}) is NOTHING
    verdict = context.apply(asked(max_tokens=4_097), field, {})
    assert verdict.removed == {"brief": "asks for 4,097 tokens of output, gives 4,096"}


def test_the_smallest_window_that_fits_gets_the_points_and_larger_ones_their_part():
    field = (
        Contestant("tiny", context_window=1_000),
        Contestant("small", context_window=8_000),
        Contestant("large", context_window=80_000),
        Contestant("unknown"),
    )
    verdict = context.apply(asked(), field, {"prefer": "smallest", "points": 0.1})
    assert list(verdict.removed) == ["tiny"]
    assert verdict.points == pytest.approx({"small": 0.1, "large": 0.01})
    assert context.apply(asked(), field[3:], {"prefer": "smallest"}) is NOTHING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "it needs 'reserve_tokens' or 'prefer'"),
        ({"reserve_tokens": 1_000}, "a whole number from 1,024"),
        ({"reserve_tokens": 2_000.5}, "a whole number"),
        ({"reserve_tokens": True}, "a whole number"),
        ({"prefer": "largest"}, "'prefer' must be 'smallest'"),
        ({"reserve_tokens": 2_000, "points": 0.1}, "with 'prefer' only"),
        ({"prefer": "smallest", "points": 2}, "a number from 0 to 1"),
    ],
)
def test_options_of_context_are_checked(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        context.check(options)


def test_who_is_not_reachable_is_removed_with_the_reason():
    field = tuple(Contestant(name) for name in ("well", "open", "paused", "failing"))
    now = {
        "open": Condition(circuit_open=True, paused_s=5),
        "paused": Condition(paused_s=0.2),
        "failing": Condition(success_rate=0.1),
    }
    verdict = health.apply(asked(now), field, {})
    assert verdict.removed == {"open": "circuit breaker open", "paused": "paused for 1 s"}


def test_who_succeeds_too_seldom_is_removed_and_who_is_not_known_is_not():
    field = tuple(Contestant(name) for name in ("enough", "failing", "new"))
    now = {"enough": Condition(success_rate=0.95), "failing": Condition(success_rate=0.949)}
    verdict = health.apply(asked(now), field, {"least_success_rate": 0.95})
    assert verdict.removed == {"failing": "94.9% succeeded lately, 95.0% wanted"}


@pytest.mark.parametrize("rate", ["0.9", 1.1, -0.1, True, None, float("nan")])
def test_a_success_rate_must_be_a_share(rate: object):
    with pytest.raises(ValueError, match="'least_success_rate' must be a number from 0 to 1"):
        health.check({"least_success_rate": rate})


def test_an_unknown_price_counts_only_where_all_are_unknown():
    known, half, unknown = Contestant("known", input_price=0.0, output_price=0.0), Contestant("half", input_price=1.0), Contestant("unknown")  # fmt: skip
    assert price.apply(asked(), (known, half, unknown), {}).removed == {
        "half": "price unknown",
        "unknown": "price unknown",
    }
    assert price.apply(asked(), (half, unknown), {}) is NOTHING
    assert price.apply(asked(), (known,), {}) is NOTHING
    with pytest.raises(ValueError, match="it takes none"):
        price.check({"most": 3})


SIZES = st.none() | st.sampled_from([1_000, 2_000, 4_000])
PRICES = st.none() | st.just(0.5)
FIELDS = st.lists(
    st.builds(
        Contestant,
        name=st.uuids().map(str),
        input_price=PRICES,
        output_price=PRICES,
        context_window=SIZES,
        max_output_tokens=SIZES,
        capabilities=st.sampled_from([frozenset(), frozenset({"tools"})]),
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(FIELDS, st.sampled_from([10, 976, 977, 1_000, 3_000]), SIZES | st.just(1_001), st.booleans(), st.booleans())
def test_a_field_that_is_not_looked_at_one_by_one_comes_out_as_if_it_were(field, prompt, answer, tools, well):
    request = asked(well=well, needs=Needs(tools=tools), input_tokens=prompt, max_tokens=answer)
    assert narrow(request, field, ease=Ease.of(field)) == narrow(request, field)


def test_a_field_of_which_nobody_can_be_removed_is_the_very_same_object():
    field = (Contestant("one", context_window=8_000), Contestant("other"))
    request = asked(well=True)
    assert Ease.of(field).holds(request)
    assert narrow(request, field, ease=Ease.of(field)).field is field
