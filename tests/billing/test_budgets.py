import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission import Demand, Reserver
from billing.budgets import (
    EVERY,
    BudgetFacts,
    PeriodClock,
    PromptSizes,
    Spender,
    holding,
    period_id,
    period_of,
    prompt_bound,
    reserve,
)
from billing.pricing import Price, Service
from billing.windows import Window
from gateway.errors import PriceUnknown
from gateway.wire.types import Needs, Usage

ANN = Spender(project_id="p1", token_id="t1", end_user="ann", budget_key="team-7")
PRICE = Price.from_decimals("v", input="1.5", output="6", cache_write_5m="1.875", per_request="0.01")


def budget(scope: str = "tenant", subject: str = "", metric: str = "usd", *, hard: bool = True) -> BudgetFacts:
    return BudgetFacts(f"{scope}-{subject}", scope, "acme", scope, subject, metric, hard, Window("month"))


@pytest.mark.parametrize(
    ("scope", "subject", "holds_as"),
    [
        ("installation", "", ""), ("tenant", "", ""), ("project", "p1", ""), ("project", "p2", None), ("token", "t1", ""),
        ("token", "t2", None), ("user", "ann", ""), ("user", "bob", None), ("user", EVERY, "ann"), ("key", "team-7", ""),
        ("key", EVERY, "team-7"), ("model", "small", ""), ("model", "large", None), ("model", EVERY, "small"),
        ("provider", "lab", ""), ("provider", "elsewhere", None),
    ],
)  # fmt: skip
def test_a_budget_holds_for_its_subject(scope: str, subject: str, holds_as: str | None) -> None:
    facts = budget(scope, subject)
    assert holding([facts], ANN, "small", "lab") == ([] if holds_as is None else [(facts, holds_as)])


def test_who_is_not_named_has_no_budget_of_its_own() -> None:
    nameless = Spender(project_id="p1", token_id="t1", end_user="", budget_key="")
    assert holding([budget("user", EVERY), budget("key", EVERY)], nameless, "small", "lab") == []


def test_a_hard_budget_in_usd_needs_a_price_and_others_do_not() -> None:
    asked = {"price": None, "input_tokens": 9, "likely": None, "output_tokens": 1, "choices": 1, "first": True}
    for facts in (budget(hard=False), budget(metric="tokens"), budget(metric="requests")):
        assert reserve([(facts, "")], [], **asked).input_pico == 0
    with pytest.raises(PriceUnknown):
        reserve([(budget(), "")], [], **asked)


@given(
    prompt=st.integers(0, 10_000),
    written=st.integers(0, 10_000),
    output=st.integers(0, 5000),
    choices=st.integers(1, 5),
)
def test_nothing_costs_more_than_what_is_reserved(prompt: int, written: int, output: int, choices: int) -> None:
    asked = reserve(
        [(budget(), "")], [], price=PRICE, input_tokens=prompt + written, likely=None, output_tokens=output,
        choices=choices, first=True,
    )  # fmt: skip
    usage = Usage(input=prompt, cache_write_5m=written, output=output * choices)
    assert PRICE.cost(usage) <= asked.input_pico + asked.output_tokens * asked.output_pico


def test_what_will_not_be_served_in_the_priority_tier_holds_less() -> None:
    dearer = Price.from_decimals("v", input="2", output="8", priority={"input": "5", "output": "16"})
    asked = {
        "model_name": "small", "provider_name": "lab", "circuit": "c", "price": dearer, "max_output_tokens": 7,
        "first": True,
    }  # fmt: skip
    reserver = Reserver()
    for _ in range(PromptSizes.FEWEST):
        reserver.sizes.saw("c", bound=100, tokens=10, pico=10 * 2_000_000)
    held = {}
    for priority in (True, False):
        demand = Demand([budget()], ANN, prompt_bound=100, max_tokens=None)
        found = reserver.reservation(demand, service=Service(may_be_priority=priority), **asked)
        held[priority] = (found.input_pico, found.likely_pico, found.output_pico)
    assert held[False] == (200_000_000, 20_000_000, 8_000_000)
    assert held[True] == (500_000_000, 50_000_000, 16_000_000)


@pytest.mark.parametrize(
    "service", [Service("ultrafast"), Service("other", field="inference_geo"), Service("priority")]
)
def test_a_tier_without_a_price_cannot_be_kept_within_a_hard_budget_in_usd(service: Service) -> None:
    asked: dict[str, Any] = {
        "price": PRICE, "input_tokens": 1, "likely": None, "output_tokens": 1, "choices": 1, "first": True,
        "service": service,
    }  # fmt: skip
    with pytest.raises(PriceUnknown) as refused:
        reserve([(budget(), "")], [], **asked)
    assert refused.value.param == service.field
    assert reserve([(budget(hard=False), "")], [], **asked).output_pico == PRICE.dearest(1)[1]
    assert reserve([(budget(metric="tokens"), "")], [], **asked).output_tokens == 1


@given(st.text(max_size=300))
def test_a_prompt_is_never_bounded_by_less_than_its_bytes(text: str) -> None:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
    assert prompt_bound(body, len(text), Needs()) >= len(text.encode("utf-8", "surrogatepass"))


def test_processes_name_a_period_alike_and_unlike_any_other() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    one = period_id("b1", "ann", start)
    assert one == period_id("b1", "ann", start)
    others = {
        period_id("b2", "ann", start),
        period_id("b1", "bob", start),
        period_id("b1", "ann", start.replace(month=12)),
    }
    assert len({one, *others}) == 4
    assert (one.version, one.variant) == (8, uuid.RFC_4122)


def test_a_period_is_worked_out_anew_when_it_is_over() -> None:
    clock, facts = PeriodClock(), budget()
    november = datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp()
    first = clock.period(facts, "", november)
    assert clock.period(facts, "", november - 1000) is first
    second = clock.period(facts, "", november + 120)
    assert second.starts_at == first.ends_at
    assert second.id != first.id == period_of(facts, "", datetime(2026, 11, 15, tzinfo=UTC)).id


class TestPromptSizes:
    def test_a_few_prompts_prove_nothing(self) -> None:
        sizes = PromptSizes()
        for _ in range(PromptSizes.FEWEST - 1):
            sizes.saw("c", 100, 20, 30)
        assert sizes.likely("c", 100, 150) == (100, 150)
        sizes.saw("c", 100, 20, 30)
        assert sizes.likely("c", 100, 150) == (20, 30)

    def test_the_highest_share_counts_and_is_rounded_up(self) -> None:
        sizes = PromptSizes()
        for tokens in (10, 33, 20, 5, 1):
            sizes.saw("c", 100, tokens, tokens * 2)
        assert sizes.likely("c", 10, 100) == (4, 7)
        assert sizes.likely("other", 10, 100) == (10, 100)

    def test_it_never_exceeds_the_bound(self) -> None:
        sizes = PromptSizes()
        for _ in range(PromptSizes.FEWEST):
            sizes.saw("c", 10, 100, 1000)
        assert sizes.likely("c", 10, 15) == (10, 15)

    @given(st.integers(1, 10_000), st.integers(1, 10_000))
    def test_like_prompts_come_out_exactly(self, bound: int, tokens: int) -> None:
        sizes = PromptSizes()
        for _ in range(PromptSizes.FEWEST):
            sizes.saw("c", bound, tokens, tokens * 7)
        assert sizes.likely("c", bound, 10**9) == (min(tokens, bound), tokens * 7)
