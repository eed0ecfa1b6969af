from typing import Any

import pytest

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire import gemini
from gateway.wire.gemini.signatures import UNSIGNED
from gateway.wire.types import (
    Audio,
    Conversation,
    File,
    Image,
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

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
WEATHER = Tool("weather", "Tells the weather.", SCHEMA)


def render(conversation: Conversation, *args: Any, **kwargs: Any) -> tuple[VendorRequest, dict[str, Any]]:
    return rendered(gemini, conversation, *args, **kwargs)


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-2.5-flash", False, "/models/gemini-2.5-flash:generateContent"),
        ("models/gemini-2.5-flash", True, "/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
        ("a/../b?c", False, "/models/a%2F..%2Fb%3Fc:generateContent"),
    ],
)
def test_the_model_stands_escaped_in_the_path(model: str, stream: bool, path: str) -> None:
    request, body = render(ask(), model, stream)

    assert request.path == path
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def test_system_messages_become_the_system_instruction_and_turns_are_merged() -> None:
    _, body = render(ask(system("Be brief."), user("Hi"), user("You"), assistant("Yes?"), system("Be kind.")))

    assert body["systemInstruction"] == {"parts": [{"text": "Be brief.\n\nBe kind."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}, {"text": "You"}]},
        {"role": "model", "parts": [{"text": "Yes?"}]},
    ]


def test_media_goes_inline_or_from_the_vendors_own_storage() -> None:
    _, body = render(
        ask(
            user(
                Image(data="aGk=", media_type="image/png"),
                Audio("aGk=", "wav"),
                File(data="JVBERg==", media_type="application/pdf"),
                Image(url="gs://bucket/a.png", media_type="image/png"),
                File(url="https://generativelanguage.googleapis.com/v1beta/files/abc"),
            )
        )
    )

    assert body["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
        {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
        {"fileData": {"fileUri": "gs://bucket/a.png", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        Image(url="https://example.org/a.png"),
        Image(url="https://example.org/?u=https://generativelanguage.googleapis.com/"),
        Image(data="aGk="),
        File(file_id="file-1"),
    ],
)
def test_what_the_vendor_would_have_to_fetch_elsewhere_is_refused(part: Part) -> None:
    with pytest.raises(UnsupportedContent):
        render(ask(user(part)))


def test_results_are_matched_to_their_calls_by_id_and_name() -> None:
    _, body = render(
        ask(
            user("Weather?"),
            assistant("Looking.", ToolCall("c1", "weather", '{"city":"Ulm"}'), ToolCall("c2", "now", "")),
            tool(ToolResult("c1", (Text("Rain"), Image(data="aGk=", media_type="image/png")))),
            tool(ToolResult("c2", (Text('{"hour": 7}'),))),
            assistant(ToolCall("c3", "now", "{}")),
            tool(ToolResult("c3", (Text("broken"),), is_error=True)),
            user("And?"),
            tools=(WEATHER,),
        )
    )

    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user", "model", "user"]
    assert body["contents"][1]["parts"] == [
        {"text": "Looking."},
        {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Ulm"}}},
        {"functionCall": {"id": "c2", "name": "now", "args": {}}},
    ]
    assert body["contents"][2]["parts"] == [
        {"functionResponse": {"id": "c1", "name": "weather", "response": {"output": "Rain"}}},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
        {"functionResponse": {"id": "c2", "name": "now", "response": {"hour": 7}}},
    ]
    assert body["contents"][4]["parts"] == [
        {"functionResponse": {"id": "c3", "name": "now", "response": {"error": "broken"}}},
        {"text": "And?"},
    ]


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        render(ask(user("Hi"), tool(ToolResult("lost", (Text("1"),)))))

    assert "lost" in refused.value.message


@pytest.mark.parametrize("arguments", ["[1]", "{", "nonsense"])
def test_tool_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    with pytest.raises(InvalidRequest):
        render(ask(user("Hi"), assistant(ToolCall("a", "f", arguments))))


def call_parts(model: str, *parts: Part) -> list[dict[str, Any]]:
    _, body = render(ask(user("Hi"), assistant(*parts)), model)
    found: list[dict[str, Any]] = body["contents"][1]["parts"]
    return found


def test_a_signature_goes_back_on_the_call_it_came_with() -> None:
    parts = (Thinking("first", "gemini:c2ln"), ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}"))

    assert [part.get("thoughtSignature") for part in call_parts("gemini-3-flash", *parts)] == ["c2ln", None]
    assert [part.get("thoughtSignature") for part in call_parts("gemini-2.5-pro", *parts)] == ["c2ln", None]


@pytest.mark.parametrize("thinking", [(), (Thinking("unsigned"),), (Thinking("another vendor's", "c2ln"),)])
def test_an_unsigned_first_call_is_marked_as_such_where_signatures_are_demanded(thinking: tuple[Part, ...]) -> None:
    parts = (*thinking, ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}"))

    assert [part.get("thoughtSignature") for part in call_parts("gemini-3.1-pro-preview", *parts)] == [UNSIGNED, None]
    assert [part.get("thoughtSignature") for part in call_parts("gemini-2.5-flash", *parts)] == [None, None]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("tool", "weather"), {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tools_keep_their_schema_and_every_choice_has_its_mode(choice: ToolChoice, expected: dict[str, Any]) -> None:
    request, body = render(ask(tools=(WEATHER, Tool("now", strict=True)), tool_choice=choice))

    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "weather", "description": "Tells the weather.", "parametersJsonSchema": SCHEMA},
                {"name": "now", "description": ""},
            ]
        }
    ]
    assert body["toolConfig"] == {"functionCallingConfig": expected}
    assert request.dropped == ("tools.strict",)


def test_thinking_that_is_not_the_vendors_own_stays_behind_with_a_note() -> None:
    request, body = render(ask(user("Hi"), assistant(Thinking("hm", "c2lnbmVk"), "Yes?"), user("Well")))

    assert body["contents"][1] == {"role": "model", "parts": [{"text": "Yes?"}]}
    assert request.dropped == ("thinking",)


def test_knobs_have_their_own_names_and_those_lacking_are_noted() -> None:
    sampling = Sampling(
        max_tokens=50,
        temperature=1.7,
        top_p=0.9,
        top_k=3,
        stop=("END",),
        seed=1,
        n=2,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logprobs=True,
        top_logprobs=2,
        parallel_tool_calls=False,
    )
    request, body = render(ask(sampling=sampling))

    assert body["generationConfig"] == {
        "maxOutputTokens": 50,
        "temperature": 1.7,
        "topP": 0.9,
        "topK": 3,
        "stopSequences": ["END"],
        "seed": 1,
        "candidateCount": 2,
        "presencePenalty": 0.5,
        "frequencyPenalty": 0.25,
    }
    assert sorted(request.dropped) == ["logprobs", "parallel_tool_calls", "top_logprobs"]


@pytest.mark.parametrize(
    ("model", "sampling", "expected", "dropped"),
    [
        ("gemini-2.5-flash", Sampling(reasoning_effort="low"), {"thinkingBudget": 1024, "includeThoughts": True}, ()),
        (
            "gemini-2.5-flash",
            Sampling(reasoning_effort="xhigh"),
            {"thinkingBudget": 24576, "includeThoughts": True},
            (),
        ),
        ("gemini-2.5-flash", Sampling(reasoning_effort="none"), {"thinkingBudget": 0}, ()),
        ("gemini-2.5-pro", Sampling(reasoning_effort="none"), {"thinkingBudget": 128}, ()),
        ("lab-model", Sampling(thinking_budget=77), {"thinkingBudget": 77, "includeThoughts": True}, ()),
        ("gemini-3-pro", Sampling(reasoning_effort="high"), {"thinkingLevel": "high", "includeThoughts": True}, ()),
        (
            "gemini-3.8-flash",
            Sampling(reasoning_effort="none"),
            {"thinkingLevel": "low", "includeThoughts": False},
            ("reasoning_effort",),
        ),
        ("gemini-2.0-flash", Sampling(reasoning_effort="high"), None, ("reasoning_effort",)),
    ],
)
def test_effort_is_put_the_way_the_model_understands(
    model: str, sampling: Sampling, expected: Any, dropped: tuple[str, ...]
) -> None:
    request, body = render(ask(sampling=sampling), model)

    assert body.get("generationConfig", {}).get("thinkingConfig") == expected
    assert request.dropped == dropped


@pytest.mark.parametrize(
    ("wanted", "profile", "expected"),
    [
        (ResponseFormat("text"), VendorProfile(), None),
        (ResponseFormat("json"), VendorProfile(), {"responseMimeType": "application/json"}),
        (
            ResponseFormat("json_schema", "out", SCHEMA),
            VendorProfile(),
            {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
        ),
        (
            ResponseFormat("json_schema", "out", SCHEMA),
            VendorProfile(json_schema=False),
            {"responseMimeType": "application/json"},
        ),
    ],
)
def test_structured_output_is_asked_for(wanted: ResponseFormat, profile: VendorProfile, expected: Any) -> None:
    assert render(ask(response_format=wanted), profile=profile)[1].get("generationConfig") == expected
