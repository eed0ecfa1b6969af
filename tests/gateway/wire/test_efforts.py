import json

import pytest

from gateway.providers.client import conversation_of
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.efforts import BUDGETS, effort_of, openai_effort
from gateway.wire.gemini.requests import _BUDGETS as GEMINI_BUDGETS
from gateway.wire.types import ReasoningEffort, Sampling, VendorProfile
from gateway.wire.verbs import VendorFormat


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_an_effort_that_became_a_budget_becomes_itself_again(effort: ReasoningEffort) -> None:
    assert effort_of(BUDGETS[effort]) == effort_of(GEMINI_BUDGETS[effort]) == effort


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(0, "none"), (1, "low"), (4095, "low"), (4096, "medium"), (16383, "medium"), (16384, "high"), (200_000, "high")],
)
def test_a_budget_is_as_much_as_an_effort(budget: int, effort: ReasoningEffort) -> None:
    assert effort_of(budget) == effort


@pytest.mark.parametrize(
    ("model", "sampling", "effort", "dropped"),
    [
        ("gpt-5-mini", Sampling(), None, []),
        ("gpt-5-mini", Sampling(thinking_budget=8000), "medium", []),
        ("gpt-5-mini", Sampling(reasoning_effort="low"), "low", []),
        ("o3", Sampling(reasoning_effort="low", thinking_budget=8000), "low", ["thinking_budget"]),
        ("some-alias", Sampling(thinking_budget=8000), "medium", []),
        ("openai/gpt-oss-120b", Sampling(thinking_budget=8000), "medium", []),
        ("gpt-4.1-mini", Sampling(thinking_budget=8000), None, ["thinking_budget"]),
        ("openai/gpt-4o", Sampling(reasoning_effort="high"), None, ["reasoning_effort"]),
        ("ft:gpt-4o-mini:ours", Sampling(reasoning_effort="none"), None, []),
        ("gpt-5.1-chat-latest", Sampling(thinking_budget=1024), None, ["thinking_budget"]),
        ("chatgpt-4o-latest", Sampling(reasoning_effort="low", thinking_budget=9), None, None),
    ],
)
def test_an_effort_is_asked_of_what_may_reason(
    model: str, sampling: Sampling, effort: ReasoningEffort | None, dropped: list[str] | None
) -> None:
    noted: list[str] = []

    assert openai_effort(sampling, model, noted) == effort
    assert noted == (["reasoning_effort", "thinking_budget"] if dropped is None else dropped)


@pytest.mark.parametrize("vendor", [openai_chat, openai_responses], ids=["chat", "responses"])
@pytest.mark.parametrize(
    ("asked", "effort", "dropped"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "low", ()),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high", ()),
        ({"thinking": {"type": "adaptive"}}, "medium", ()),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, "high", ()),
    ],
)
def test_a_messages_callers_thinking_is_asked_for_as_an_effort(
    vendor: VendorFormat, asked: dict[str, object], effort: str, dropped: tuple[str, ...]
) -> None:
    body = {"model": "any", "max_tokens": 40000, "messages": [{"role": "user", "content": "hi"}], **asked}
    request = anthropic_messages.parse_request(json.dumps(body).encode(), {})

    sent = vendor.render_request(request, conversation_of, "gpt-5-mini", VendorProfile())

    fields = json.loads(sent.body)
    assert fields.get("reasoning_effort", fields.get("reasoning", {}).get("effort")) == effort
    assert sent.dropped == dropped
