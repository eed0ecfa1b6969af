"""What is held for a call goes by the tier that its vendor is really asked for."""

from typing import Any

import msgspec
import pytest

from billing.pricing import Service
from gateway.dispatch.service_tiers import asked_service
from gateway.providers import catalog
from gateway.providers.target import Target
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.types import Request

USER = [{"role": "user", "content": "hi"}]
SETTING = Service(may_be_priority=True)
STANDARD = Service(may_be_priority=False)


def target(kind: str) -> Target:
    return Target(
        "p", "lab", kind, "https://lab.example", "k", "s", "m", "small", "v", profile=catalog.get(kind).profile
    )


def chat(**fields: Any) -> Request:
    return openai_chat.parse_request(msgspec.json.encode({"model": "small", "messages": USER, **fields}), {})


def response(**fields: Any) -> Request:
    return openai_responses.parse_request(msgspec.json.encode({"model": "small", "input": "hi", **fields}), {})


def message(**fields: Any) -> Request:
    body = {"model": "small", "messages": USER, "max_tokens": 9, **fields}
    return anthropic_messages.parse_request(msgspec.json.encode(body), {})


@pytest.mark.parametrize("ask", [chat, response])
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("auto", SETTING),
        (None, SETTING),
        ("default", STANDARD),
        ("flex", Service("flex", may_be_priority=False)),
        ("priority", Service("priority")),
        ("fast", Service("priority")),
        ("ultrafast", Service("ultrafast")),
        ("gold", Service("other")),
    ],
)
def test_only_who_asks_openai_for_another_tier_is_sure_not_to_get_the_priority_one(
    ask: Any, named: str | None, expected: Service
) -> None:
    assert asked_service(ask(service_tier=named), target("openai")) == expected
    assert asked_service(ask(), target("openai")) == SETTING


@pytest.mark.parametrize("named", ["default", "flex", "priority", "ultrafast"])
def test_a_tier_that_is_not_sent_is_not_believed(named: str) -> None:
    for request, kind in (
        (chat(service_tier=named), "openai-responses"),
        (response(service_tier=named), "openai-compatible"),
        (chat(service_tier=named), "mistral"),  # which does not take the field
        (message(service_tier=named, speed="fast"), "openai"),
    ):
        assert asked_service(request, target(kind)) == SETTING
    for kind in ("anthropic", "gemini", "ollama"):
        assert asked_service(chat(service_tier=named), target(kind)) == STANDARD


def test_a_rescue_that_is_asked_in_other_words_may_be_served_in_any_tier() -> None:
    assert asked_service(chat(service_tier="default"), target("openai"), reworded=True) == SETTING


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Service(field="speed", may_be_priority=False)),
        ({"service_tier": "auto"}, Service(field="speed", may_be_priority=False)),
        ({"speed": "standard", "inference_geo": "global"}, Service(field="speed", may_be_priority=False)),
        ({"speed": "fast"}, Service("priority", field="speed")),
        ({"speed": "warp"}, Service("other", field="speed", may_be_priority=False)),
        ({"inference_geo": "us"}, Service("other", field="inference_geo", may_be_priority=False)),
        ({"inference_geo": None, "speed": None}, Service(field="speed", may_be_priority=False)),
    ],
)
def test_of_anthropic_speed_and_a_region_cost_more(fields: dict[str, Any], expected: Service) -> None:
    assert asked_service(message(**fields), target("anthropic")) == expected
