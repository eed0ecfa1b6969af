import base64
from typing import Any

import pytest

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire import anthropic_messages
from gateway.wire.anthropic_messages.generations import generation_of
from gateway.wire.anthropic_messages.schemas import closed_schema
from gateway.wire.types import (
    Audio,
    Conversation,
    File,
    Image,
    Message,
    Part,
    ResponseFormat,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    VendorProfile,
    VendorRequest,
)
from tests.gateway.wire.assembly import ask, assistant, rendered, system, tool, user

WEATHER = Tool("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
BUDGETED = "claude-sonnet-4-5"
FIRST_ADAPTIVE = "claude-opus-4-6"
ADAPTIVE = "claude-opus-5"


def render(conversation: Conversation, *args: Any, **kwargs: Any) -> tuple[VendorRequest, dict[str, Any]]:
    return rendered(anthropic_messages, conversation, *args, **kwargs)


def test_a_request_names_path_version_model_and_the_mandatory_limit() -> None:
    request, body = render(ask(), profile=VendorProfile(default_max_tokens=777))

    assert request.path == "/v1/messages"
    assert request.headers == {"anthropic-version": "2023-06-01"}
    assert body == {
        "model": "lab-model",
        "max_tokens": 777,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }
    assert request.dropped == ()


def test_a_stream_is_asked_for() -> None:
    assert render(ask(), stream=True)[1]["stream"] is True


def test_system_messages_are_hoisted_from_wherever_they_stand() -> None:
    _, body = render(ask(system("Be brief."), user("Hi"), assistant("Yes?"), system("Be kind."), user("Well")))

    assert body["system"] == "Be brief.\n\nBe kind."
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


def test_a_conversation_of_system_messages_only_becomes_a_user_turn() -> None:
    _, body = render(ask(system("Tell a joke.")))

    assert "system" not in body
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Tell a joke."}]}]


def test_neighbouring_turns_of_one_role_are_merged_and_empty_text_is_left_out() -> None:
    _, body = render(ask(user("One", ""), user("Two"), assistant(""), user("Three")))

    assert [block["text"] for block in body["messages"][0]["content"]] == ["One", "Two", "Three"]
    assert len(body["messages"]) == 1


@pytest.mark.parametrize("messages", [(user(""),), (system(""),)])
def test_an_empty_conversation_is_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(InvalidRequest):
        render(ask(*messages))


def test_an_image_in_a_system_message_is_refused() -> None:
    with pytest.raises(UnsupportedContent):
        render(ask(system(Image(url="https://example.org/a.png")), user("Hi")))


def test_images_go_inline_or_by_url() -> None:
    _, body = render(ask(user(Image(data="aGk=", media_type="image/png"), Image(url="https://example.org/a.png"))))

    assert body["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ]


def test_documents_go_inline_as_pdf_or_text_or_by_url() -> None:
    text = base64.b64encode("Grüße".encode()).decode()
    _, body = render(
        ask(
            user(
                File(data="JVBERg==", media_type="application/pdf", filename="a.pdf"),
                File(data=text, media_type="text/markdown"),
                File(url="https://example.org/b.pdf"),
            )
        )
    )

    assert body["messages"][0]["content"] == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/b.pdf"}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        Audio("aGk=", "wav"),
        Image(data="aGk=", media_type="image/tiff"),
        File(file_id="file-1"),
        File(data="aGk=", media_type="application/zip"),
        File(data="!", media_type="text/plain"),
    ],
)
def test_content_the_api_does_not_take_is_refused(part: Part) -> None:
    with pytest.raises(UnsupportedContent):
        render(ask(user(part)))


def test_parallel_calls_and_their_results_share_a_turn_each() -> None:
    _, body = render(
        ask(
            user("Weather?"),
            assistant(
                "Looking.", ToolCall("call_1", "weather", '{"city":"Ulm"}'), ToolCall("functions.w:1", "weather", "")
            ),
            tool(ToolResult("call_1", (Text("Rain"),))),
            tool(ToolResult("functions.w:1", (), is_error=True)),
            user("And?"),
            tools=(WEATHER,),
        )
    )

    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Ulm"}},
                {"type": "tool_use", "id": "functions_w_1", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
                {"type": "tool_result", "tool_use_id": "functions_w_1", "is_error": True},
                {"type": "text", "text": "And?"},
            ],
        },
    ]


def test_tool_arguments_keep_their_number_formatting() -> None:
    request, _ = render(ask(user("Hi"), assistant(ToolCall("a", "f", '{"x": 1.0, "y": 12345678901234567890}'))))

    assert b'{"x": 1.0, "y": 12345678901234567890}' in request.body


@pytest.mark.parametrize("arguments", ["[1]", "{", '"x"', "nonsense"])
def test_tool_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    with pytest.raises(InvalidRequest):
        render(ask(user("Hi"), assistant(ToolCall("a", "f", arguments))))


def test_several_choices_are_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        render(ask(sampling=Sampling(n=2)))

    assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice("auto"), {"type": "auto"}),
        (ToolChoice("none"), {"type": "none"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice("tool", "weather"), {"type": "tool", "name": "weather"}),
    ],
)
def test_every_tool_choice_has_its_counterpart(choice: ToolChoice, expected: dict[str, Any]) -> None:
    _, body = render(ask(tools=(WEATHER,), tool_choice=choice))

    assert body["tool_choice"] == expected
    assert body["tools"] == [
        {"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER.parameters}
    ]


def test_calls_one_at_a_time_are_asked_for_on_the_tool_choice() -> None:
    _, body = render(ask(tools=(Tool("f"),), sampling=Sampling(parallel_tool_calls=False)))

    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["tools"][0]["input_schema"] == {"type": "object", "properties": {}}


def test_strict_tools_are_closed_and_open_ones_lose_their_strictness_with_a_note() -> None:
    open_tool = Tool("g", None, {"type": "object", "additionalProperties": {"type": "string"}}, strict=True)
    request, body = render(ask(tools=(Tool("f", None, WEATHER.parameters, strict=True), open_tool)))

    assert body["tools"][0]["strict"] is True
    assert body["tools"][0]["input_schema"]["additionalProperties"] is False
    assert "strict" not in body["tools"][1]
    assert body["tools"][1]["input_schema"] == open_tool.parameters
    assert request.dropped == ("tools.strict",)


def test_knobs_the_api_lacks_are_dropped_with_a_note() -> None:
    sampling = Sampling(
        max_tokens=50, temperature=1.7, top_k=3, stop=("END", "\n"), seed=1, presence_penalty=0.5, frequency_penalty=0
    )
    request, body = render(ask(sampling=sampling))

    assert (body["max_tokens"], body["temperature"], body["top_k"]) == (50, 1, 3)
    assert body["stop_sequences"] == ["END"]
    assert sorted(request.dropped) == ["presence_penalty", "seed", "stop", "temperature"]


def test_knobs_the_catalogue_rules_out_are_dropped_too() -> None:
    request, body = render(ask(sampling=Sampling(top_k=3)), profile=VendorProfile(unsupported=frozenset({"top_k"})))

    assert "top_k" not in body
    assert request.dropped == ("top_k",)


@pytest.mark.parametrize(
    ("model", "sent", "dropped"),
    [
        ("claude-3-haiku-20240307", {"temperature", "top_p"}, ()),
        ("lab-model", {"temperature", "top_p"}, ()),
        ("claude-haiku-4-5-20251001", {"temperature"}, ("top_p",)),
        ("claude-opus-4-7", set(), ("temperature", "top_p")),
        ("claude-sonnet-5", set(), ("temperature", "top_p")),
    ],
)
def test_samplers_are_sent_as_the_generation_takes_them(model: str, sent: set[str], dropped: tuple[str, ...]) -> None:
    request, body = render(ask(sampling=Sampling(temperature=0.5, top_p=0.9)), model)

    assert body.keys() & {"temperature", "top_p"} == sent
    assert request.dropped == dropped


@pytest.mark.parametrize(
    ("effort", "max_tokens", "budget"),
    [("low", 20000, 2048), ("high", 100_000, 16384), ("high", 4096, 3072), ("high", 1300, 1024)],
)
def test_effort_becomes_a_budget_that_leaves_room_for_the_answer(effort: Any, max_tokens: int, budget: int) -> None:
    _, body = render(ask(sampling=Sampling(reasoning_effort=effort, max_tokens=max_tokens)), BUDGETED)

    assert body["thinking"] == {"type": "enabled", "budget_tokens": budget}
    assert budget < body["max_tokens"]


def test_a_budget_is_taken_as_asked() -> None:
    _, body = render(ask(sampling=Sampling(thinking_budget=2000, max_tokens=9000)))

    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}


def test_thinking_displaces_samplers() -> None:
    request, body = render(ask(sampling=Sampling(reasoning_effort="low", temperature=0.2, top_p=1)))

    assert "temperature" not in body
    assert request.dropped == ("temperature",)


@pytest.mark.parametrize(
    "conversation",
    [
        ask(sampling=Sampling(reasoning_effort="low", max_tokens=1024)),
        ask(tools=(WEATHER,), tool_choice=ToolChoice("required"), sampling=Sampling(reasoning_effort="low")),
        ask(
            user("Hi"),
            assistant(ToolCall("a", "f", "{}")),
            tool(ToolResult("a", (Text("1"),))),
            sampling=Sampling(reasoning_effort="low"),
        ),
    ],
    ids=["no room", "forced tool", "history without thinking"],
)
def test_thinking_that_the_api_would_refuse_is_dropped_with_a_note(conversation: Conversation) -> None:
    request, body = render(conversation, BUDGETED)

    assert "thinking" not in body
    assert request.dropped == ("reasoning_effort",)


def test_no_effort_asks_for_no_thinking() -> None:
    request, body = render(ask(sampling=Sampling(reasoning_effort="none")), BUDGETED)

    assert "thinking" not in body
    assert request.dropped == ()


@pytest.mark.parametrize(
    ("model", "sampling", "thinking", "level", "dropped"),
    [
        (ADAPTIVE, Sampling(reasoning_effort="xhigh"), {"type": "adaptive"}, "xhigh", ()),
        (ADAPTIVE, Sampling(reasoning_effort="minimal"), {"type": "adaptive"}, "low", ()),
        (ADAPTIVE, Sampling(reasoning_effort="none"), None, "low", ("reasoning_effort",)),
        (ADAPTIVE, Sampling(thinking_budget=5000), {"type": "adaptive"}, None, ("thinking_budget",)),
        (FIRST_ADAPTIVE, Sampling(reasoning_effort="xhigh"), {"type": "adaptive"}, "high", ("reasoning_effort",)),
        (FIRST_ADAPTIVE, Sampling(reasoning_effort="none"), None, None, ()),
        (FIRST_ADAPTIVE, Sampling(thinking_budget=2048), {"type": "enabled", "budget_tokens": 2048}, None, ()),
    ],
)
def test_adaptive_generations_are_given_an_effort(
    model: str, sampling: Sampling, thinking: Any, level: str | None, dropped: tuple[str, ...]
) -> None:
    request, body = render(ask(sampling=sampling), model)

    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == level
    assert request.dropped == dropped


def test_signed_thinking_goes_back_and_other_thinking_does_not() -> None:
    request, body = render(
        ask(
            user("Hi"),
            assistant(
                Thinking("mine", "c2lnbmVk"),
                Thinking(redacted="b3BhcXVl"),
                Thinking("unsigned"),
                Thinking("another vendor's", "gemini:c2lnbmVk"),
                ToolCall("a", "f", "{}"),
            ),
            tool(ToolResult("a", (Text("1"),))),
            sampling=Sampling(reasoning_effort="low"),
        ),
        BUDGETED,
    )

    assert body["messages"][1]["content"][:2] == [
        {"type": "thinking", "thinking": "mine", "signature": "c2lnbmVk"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
    ]
    assert [block["type"] for block in body["messages"][1]["content"][2:]] == ["tool_use"]
    assert body["thinking"]["type"] == "enabled"
    assert request.dropped == ("thinking",)


def test_white_space_at_the_end_of_a_prefill_is_trimmed() -> None:
    _, body = render(ask(user("Hi"), assistant("The answer is ")))

    assert body["messages"][1]["content"] == [{"type": "text", "text": "The answer is"}]


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "minimum": {"type": "integer", "minimum": 1, "description": "How many"},
        "tags": {"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string"}, {"$ref": "#/$defs/tag"}]}},
    },
    "required": ["minimum"],
    "$defs": {"tag": {"type": "object", "properties": {"id": {"type": "string", "maxLength": 3}}}},
}


def test_a_schema_constrains_decoding_with_its_limits_in_words() -> None:
    _, body = render(ask(response_format=ResponseFormat("json_schema", "out", SCHEMA, True)), BUDGETED)

    assert "system" not in body
    assert body["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {
                    "minimum": {"type": "integer", "description": "How many (minimum: 1)"},
                    "tags": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/tag"}]},
                    },
                },
                "required": ["minimum"],
                "$defs": {
                    "tag": {
                        "type": "object",
                        "properties": {"id": {"type": "string", "description": "(maxLength: 3)"}},
                        "additionalProperties": False,
                    }
                },
                "additionalProperties": False,
            },
        }
    }


@pytest.mark.parametrize(
    ("wanted", "model", "profile", "dropped"),
    [
        (ResponseFormat("json"), BUDGETED, VendorProfile(), ()),
        (ResponseFormat("json_schema", "out", {"type": "object"}), BUDGETED, VendorProfile(), ()),
        (ResponseFormat("json_schema", "out", SCHEMA), "claude-3-opus-20240229", VendorProfile(), ()),
        (
            ResponseFormat("json_schema", "out", SCHEMA, True),
            "lab-model",
            VendorProfile(json_schema=False),
            ("response_format.strict",),
        ),
    ],
    ids=["any object", "open object", "old model", "quirk"],
)
def test_json_that_cannot_be_enforced_is_asked_for_in_the_system_prompt(
    wanted: ResponseFormat, model: str, profile: VendorProfile, dropped: tuple[str, ...]
) -> None:
    request, body = render(ask(system("Be brief."), user("Hi"), response_format=wanted), model, profile=profile)

    assert "output_config" not in body
    assert body["system"].startswith("Be brief.\n\nAnswer with a single JSON object")
    assert ("JSON Schema" in body["system"]) == (wanted.schema is not None)
    assert request.dropped == dropped


def test_a_map_cannot_be_closed() -> None:
    assert closed_schema({"type": "object", "properties": {"a": {"type": ["object", "null"]}}}) is None
    assert closed_schema({"type": "object", "properties": {}, "additionalProperties": True}) is None


@pytest.mark.parametrize(
    ("model", "adaptive", "budget"),
    [
        ("claude-3-7-sonnet-20250219", False, True),
        ("claude-sonnet-4-20250514", False, True),
        ("anthropic.claude-opus-4-6-v1", True, True),
        ("claude-4.6-opus", True, True),
        ("claude-opus-4-8", True, False),
        ("claude-haiku-5-5", True, False),
        ("my-alias", False, True),
    ],
)
def test_a_generation_is_read_from_the_name(model: str, adaptive: bool, budget: bool) -> None:
    generation = generation_of(model)

    assert (generation.adaptive_thinking, generation.thinking_budget) == (adaptive, budget)
