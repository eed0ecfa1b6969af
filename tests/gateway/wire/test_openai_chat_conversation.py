"""Chat requests to canonical conversations, and conversations of other dialects to chat vendors."""

import json
from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire import openai_chat
from gateway.wire.types import (
    Audio,
    Conversation,
    Extensions,
    File,
    Image,
    Message,
    Needs,
    Refusal,
    Request,
    ResponseFormat,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    VendorProfile,
)

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def converse(*messages: dict[str, Any], **fields: Any) -> Conversation:
    body = json.dumps({"messages": messages or [USER], **fields}).encode()
    return openai_chat.parse_conversation(openai_chat.parse_request(body, {}))


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_every_kind_of_message_has_its_canonical_form() -> None:
    conversation = converse(
        {"role": "system", "content": "S"},
        {"role": "developer", "content": [{"type": "text", "text": "D"}]},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Hm", "reasoning_content": "why", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "42"}]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "refusal": "Never."},
    )

    assert conversation.messages == (
        Message("system", (Text("S"),)),
        Message("system", (Text("D"),)),
        Message("user", (Text("Hi"),), "ann"),
        Message("assistant", (Thinking("why"), Text("Hm"), ToolCall("c1", "f", '{"a": 1}'))),
        Message("tool", (ToolResult("c1", (Text("42"),)),)),
        Message("assistant", ()),
        Message("assistant", (Refusal("No."), Refusal("Never."))),
    )


def test_media_are_taken_out_of_data_urls() -> None:
    conversation = converse(
        user(
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}},
            {"type": "image_url", "image_url": "data:image/webp;charset=x;base64,QUJD"},
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"file_data": "JVBE"}},
        )
    )

    assert conversation.messages[0].parts == (
        Image(url="https://x.test/a.png", detail="low"),
        Image(data="iVBOR", media_type="image/png"),
        Image(data="QUJD", media_type="image/webp"),
        Audio("UklG", "wav"),
        File(data="JVBE", media_type="application/pdf", filename="a.pdf"),
        File(file_id="file-1"),
        File(data="JVBE", media_type="application/pdf"),
    )


def test_legacy_functions_become_tools_with_matching_ids() -> None:
    conversation = converse(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "42"},
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )

    call = conversation.messages[1].parts[0]
    assert isinstance(call, ToolCall)
    assert conversation.messages[2].parts == (ToolResult(call.id, (Text("42"),)),)
    assert conversation.tools == (Tool("f", parameters={"type": "object"}),)
    assert conversation.tool_choice == ToolChoice("tool", "f")


@pytest.mark.parametrize(
    ("choice", "canonical"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("tool", "f")),
        (None, None),
    ],
)
def test_tool_choices(choice: Any, canonical: ToolChoice | None) -> None:
    assert converse(tool_choice=choice).tool_choice == canonical


def test_tools_formats_and_knobs() -> None:
    schema = {"type": "object", "properties": {}}
    function = {"name": "f", "description": "does", "parameters": schema, "strict": True}
    json_schema = {"name": "out", "schema": schema, "strict": True}

    conversation = converse(
        tools=[{"type": "function", "function": function}],
        response_format={"type": "json_schema", "json_schema": json_schema},
        max_completion_tokens=9,
        temperature=1,
        stop="END",
        seed=4,
        n=2,
        reasoning_effort="low",
        parallel_tool_calls=False,
    )

    assert conversation.tools == (Tool("f", "does", schema, True),)
    assert conversation.response_format == ResponseFormat("json_schema", "out", schema, True)
    assert conversation.sampling == Sampling(
        max_tokens=9, temperature=1.0, stop=("END",), seed=4, n=2, reasoning_effort="low", parallel_tool_calls=False
    )
    assert converse(response_format={"type": "json_object"}).response_format == ResponseFormat("json")
    assert converse(response_format={"type": "text"}).response_format == ResponseFormat("text")
    assert converse(stop=["a", "", "b"]).sampling.stop == ("a", "b")


def test_the_conversation_is_made_once() -> None:
    request = openai_chat.parse_request(json.dumps({"messages": [USER]}).encode(), {})

    assert openai_chat.parse_conversation(request) is openai_chat.parse_conversation(request)


@pytest.mark.parametrize(
    ("messages", "fields", "param", "kind"),
    [
        ([user({"type": "hologram"})], {}, "messages[0].content[0]", UnsupportedContent),
        ([USER, user({"type": "text"})], {}, "messages[1].content[0].text", InvalidRequest),
        ([user({"type": "text", "text": 5})], {}, "messages[0].content[0].text", InvalidRequest),
        ([user({"type": "image_url"})], {}, "messages[0].content[0].image_url", InvalidRequest),
        (
            [user({"type": "image_url", "image_url": "file:///etc/passwd"})],
            {},
            "messages[0].content[0].image_url",
            None,
        ),
        (
            [user({"type": "image_url", "image_url": "data:image/png,raw"})],
            {},
            "messages[0].content[0].image_url",
            None,
        ),
        ([user({"type": "image_url", "image_url": {}})], {}, "messages[0].content[0].image_url.url", InvalidRequest),
        ([user({"type": "file", "file": {}})], {}, "messages[0].content[0].file", InvalidRequest),
        ([{"role": "system", "content": [{"type": "image_url", "image_url": "https://x"}]}], {}, None, InvalidRequest),
        ([{"role": "tool", "content": "x"}], {}, "messages[0].tool_call_id", InvalidRequest),
        ([{"role": "function", "name": "f", "content": "x"}], {}, "messages[0].name", InvalidRequest),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], {}, "messages[0].tool_calls[0]", UnsupportedContent),
        ([{"role": "assistant", "tool_calls": [{}]}], {}, "messages[0].tool_calls[0].id", InvalidRequest),
        ([{"role": "assistant", "audio": {"id": "a"}}], {}, "messages[0].audio", UnsupportedContent),
        ([USER], {"tools": [{"type": "web_search"}]}, "tools[0]", UnsupportedContent),
        ([USER], {"tools": [{"type": "function"}]}, "tools[0].function", InvalidRequest),
        ([USER], {"tool_choice": "maybe"}, "tool_choice", InvalidRequest),
        ([USER], {"tool_choice": {"type": "allowed_tools"}}, "tool_choice", UnsupportedContent),
        ([USER], {"response_format": {"type": "xml"}}, "response_format.type", InvalidRequest),
        ([USER], {"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", InvalidRequest),
        ([USER], {"temperature": "hot"}, "temperature", InvalidRequest),
        ([USER], {"reasoning_effort": "max"}, "reasoning_effort", InvalidRequest),
        ([USER], {"modalities": ["text", "audio"]}, "modalities", UnsupportedContent),
    ],
)
def test_content_that_cannot_be_translated_is_refused_by_place(
    messages: list[Any], fields: dict[str, Any], param: str | None, kind: type[InvalidRequest] | None
) -> None:
    with pytest.raises(kind or InvalidRequest) as caught:
        converse(*messages, **fields)

    assert caught.value.param == param or param is None


# --------------------------------------------------------------------------- to a chat vendor


def render(conversation: Conversation, stream: bool = False, **profile: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    request = Request("other", {}, "m", stream, False, None, 1, None, Needs(), 0, Extensions(), conversation)
    sent = openai_chat.render_request(request, lambda asked: conversation, "vendor-model", VendorProfile(**profile))
    return msgspec.json.decode(sent.body), sent.dropped


def test_a_conversation_of_another_dialect_is_rendered() -> None:
    conversation = Conversation(
        messages=(
            Message("system", (Text("S"),)),
            Message("user", (Text("Look"), Image(data="iVBOR", media_type="image/png", detail="low")), "ann"),
            Message(
                "assistant", (Thinking("hm", "sig"), Text("I call"), ToolCall("c1", "f", ""), ToolCall("c2", "g", "{}"))
            ),
            Message(
                "tool", (ToolResult("c1", (Text("4"), Text("2"))), ToolResult("c2", (Image(url="https://x"),), True))
            ),
        ),
        tools=(Tool("f", "does", {"type": "object"}),),
        tool_choice=ToolChoice("tool", "f"),
        response_format=ResponseFormat("json_schema", None, {"type": "object"}, True),
        sampling=Sampling(max_tokens=9, temperature=0.5, top_k=4, stop=("END",), thinking_budget=1024),
    )

    fields, dropped = render(conversation, stream=True)

    function = {"name": "f", "description": "does", "parameters": {"type": "object"}}
    assert fields == {
        "model": "vendor-model",
        "messages": [
            {"role": "system", "content": "S"},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "Look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I call",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "tool", "tool_call_id": "c2", "content": ""},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["END"],
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert dropped == ("thinking", "top_k")


def test_a_profile_shapes_a_rendered_request_too() -> None:
    conversation = Conversation((Message("user", (Text("x"),)),), sampling=Sampling(max_tokens=9, seed=1))

    fields, dropped = render(
        conversation, max_tokens_field="max_completion_tokens", unsupported=frozenset({"seed"}), stream_usage=False
    )

    assert fields == {
        "model": "vendor-model",
        "messages": [{"role": "user", "content": "x"}],
        "max_completion_tokens": 9,
    }
    assert dropped == ("seed",)


def test_a_chat_conversation_survives_the_way_there_and_back() -> None:
    conversation = converse(
        {"role": "system", "content": "S"},
        user(
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
            {"type": "file", "file": {"file_id": "file-1"}},
        ),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        tool_choice="required",
        response_format={"type": "json_object"},
        temperature=0.25,
        n=2,
    )

    fields, dropped = render(conversation)
    again = openai_chat.parse_conversation(openai_chat.parse_request(msgspec.json.encode(fields), {}))

    assert again == conversation
    assert dropped == ()


def test_a_file_by_url_is_refused() -> None:
    with pytest.raises(UnsupportedContent):
        render(Conversation((Message("user", (File(url="https://x.test/a.pdf"),)),)))
