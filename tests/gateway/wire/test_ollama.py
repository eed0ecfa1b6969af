from typing import Any

import msgspec
import pytest
from hypothesis import given

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ProviderError, UnsupportedContent
from gateway.wire import ollama
from gateway.wire.types import (
    Audio,
    Chunk,
    Completion,
    Conversation,
    File,
    Image,
    ParseError,
    Part,
    ResponseFormat,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    VendorProfile,
    VendorRequest,
)
from tests.gateway.wire.assembly import (
    ask,
    assembled,
    assistant,
    finish_reason,
    last_usage,
    pieces_of,
    read,
    rendered,
    system,
    tool,
    user,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER, NOW = Tool("weather", "Tells the weather.", SCHEMA), Tool("now")


def render(conversation: Conversation, *args: Any, **kwargs: Any) -> tuple[VendorRequest, dict[str, Any]]:
    return rendered(ollama, conversation, *args, **kwargs)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_says_whether_to_stream(stream: bool) -> None:
    request, body = render(ask(), stream=stream)

    assert request.path == "/api/chat"
    assert body == {"model": "lab-model", "messages": [{"role": "user", "content": "Hello"}], "stream": stream}


def test_a_conversation_keeps_its_order_with_system_messages_where_they_stand() -> None:
    _, body = render(
        ask(
            user("Weather?", Image(data="aGk=", media_type="image/png")),
            assistant(
                Thinking("Hm."),
                "Looking.",
                ToolCall("c1", "weather", '{"city":"Ulm"}'),
                ToolCall("c2", "now", ""),
            ),
            tool(ToolResult("c1", (Text("Rain"),))),
            tool(ToolResult("c2", (Text("7"), Image(data="aGk=")))),
            system("Be brief."),
            user("And", "so?"),
        )
    )

    assert body["messages"] == [
        {"role": "user", "content": "Weather?", "images": ["aGk="]},
        {
            "role": "assistant",
            "content": "Looking.",
            "thinking": "Hm.",
            "tool_calls": [
                {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Ulm"}}},
                {"id": "c2", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "Rain", "tool_call_id": "c1", "tool_name": "weather"},
        {"role": "tool", "content": "7", "images": ["aGk="], "tool_call_id": "c2", "tool_name": "now"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And\n\nso?"},
    ]


@pytest.mark.parametrize("part", [Image(url="https://example.org/a.png"), Audio("aGk=", "wav"), File(file_id="f")])
def test_content_ollama_does_not_take_is_refused(part: Part) -> None:
    with pytest.raises(UnsupportedContent):
        render(ask(user(part)))


@pytest.mark.parametrize("sampling", [Sampling(n=2)])
def test_several_choices_are_refused(sampling: Sampling) -> None:
    with pytest.raises(InvalidRequest):
        render(ask(sampling=sampling))


def test_tool_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        render(ask(user("Hi"), assistant(ToolCall("a", "f", "[1]"))))


@pytest.mark.parametrize(
    ("choice", "offered", "dropped"),
    [
        (None, ["weather", "now"], ()),
        (ToolChoice("auto"), ["weather", "now"], ()),
        (ToolChoice("none"), [], ()),
        (ToolChoice("required"), ["weather", "now"], ("tool_choice",)),
        (ToolChoice("tool", "now"), ["now"], ("tool_choice",)),
    ],
)
def test_a_tool_choice_is_made_by_what_is_offered(
    choice: ToolChoice | None, offered: list[str], dropped: tuple[str, ...]
) -> None:
    request, body = render(ask(tools=(WEATHER, NOW), tool_choice=choice))

    assert [entry["function"]["name"] for entry in body.get("tools", [])] == offered
    assert request.dropped == dropped


def test_tools_are_described_the_openai_way() -> None:
    _, body = render(ask(tools=(WEATHER, NOW)))

    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA},
        },
        {
            "type": "function",
            "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
        },
    ]


def test_knobs_stand_under_options_and_those_lacking_are_noted() -> None:
    sampling = Sampling(
        max_tokens=50, temperature=1.7, top_p=0.9, top_k=3, stop=("END",), seed=1, presence_penalty=0.5, logprobs=True
    )
    request, body = render(ask(sampling=sampling))

    assert body["options"] == {
        "num_predict": 50,
        "temperature": 1.7,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["END"],
        "seed": 1,
        "presence_penalty": 0.5,
    }
    assert request.dropped == ("logprobs",)


@pytest.mark.parametrize(
    ("model", "sampling", "think", "dropped"),
    [
        ("qwen3", Sampling(), None, ()),
        ("qwen3", Sampling(reasoning_effort="none"), False, ()),
        ("qwen3", Sampling(reasoning_effort="high"), True, ()),
        ("qwen3", Sampling(thinking_budget=2000), True, ("thinking_budget",)),
        ("gpt-oss:20b", Sampling(reasoning_effort="high"), "high", ()),
        ("gpt-oss:20b", Sampling(reasoning_effort="none"), "low", ("reasoning_effort",)),
        ("gpt-oss:20b", Sampling(thinking_budget=2048), "low", ()),
        ("gpt-oss:20b", Sampling(thinking_budget=2048, reasoning_effort="high"), "high", ("thinking_budget",)),
    ],
)
def test_effort_is_put_the_way_the_model_understands(
    model: str, sampling: Sampling, think: Any, dropped: tuple[str, ...]
) -> None:
    request, body = render(ask(sampling=sampling), model)

    assert body.get("think") == think
    assert request.dropped == dropped


@pytest.mark.parametrize(
    ("wanted", "profile", "expected"),
    [
        (ResponseFormat("text"), VendorProfile(), None),
        (ResponseFormat("json"), VendorProfile(), "json"),
        (ResponseFormat("json_schema", "out", SCHEMA), VendorProfile(), SCHEMA),
        (ResponseFormat("json_schema", "out", SCHEMA), VendorProfile(json_schema=False), "json"),
    ],
)
def test_structured_output_is_asked_for(wanted: ResponseFormat, profile: VendorProfile, expected: Any) -> None:
    assert render(ask(response_format=wanted), profile=profile)[1].get("format") == expected


HEAD = {"model": "qwen3", "created_at": "2026-01-02T03:04:05.678901234Z"}
DONE = {"done": True, "done_reason": "stop", "total_duration": 9, "prompt_eval_count": 26, "eval_count": 40}
CALLS = [
    {"id": "call_a", "function": {"index": 0, "name": "weather", "arguments": {"city": "Ulm"}}},
    {"function": {"name": "now", "arguments": {}}},
]
MESSAGE = {
    "role": "assistant",
    "content": "Ich sehe \N{SUN BEHIND CLOUD}.",
    "thinking": "Two calls.",
    "tool_calls": CALLS,
}
WHOLE = HEAD | {"message": MESSAGE} | DONE


def line(done: dict[str, Any] | None = None, **message: Any) -> bytes:
    body = HEAD | {"message": {"role": "assistant", "content": "", **message}} | (done or {"done": False})
    return msgspec.json.encode(body) + b"\n"


STREAM = b"".join(
    [
        line(thinking="Two "),
        line(thinking="calls."),
        line(content="Ich sehe "),
        line(content="\N{SUN BEHIND CLOUD}."),
        line(tool_calls=CALLS[:1]),
        line(tool_calls=CALLS[1:]),
        line(DONE),
    ]
)


def whole(body: dict[str, Any]) -> Completion:
    return ollama.parse_completion(msgspec.json.encode(body), passthrough=False)


def stream_of(*pieces: bytes) -> tuple[list[Chunk], bool]:
    parser = ollama.open_parser(passthrough=False)
    return read(parser, pieces), parser.complete


def test_a_whole_answer_is_translated() -> None:
    completion = whole(WHOLE)
    *parts, unnamed = completion.choices[0].parts

    assert (completion.model, completion.created) == ("qwen3", 1767323045)
    assert parts == [
        Thinking("Two calls."),
        Text("Ich sehe \N{SUN BEHIND CLOUD}."),
        ToolCall("call_a", "weather", '{"city":"Ulm"}'),
    ]
    assert isinstance(unnamed, ToolCall)
    assert (unnamed.name, unnamed.arguments) == ("now", "{}")
    assert unnamed.id.startswith("call_")
    assert completion.finish_reason == "tool_calls"
    assert completion.usage == Usage(input=26, output=40)


def test_a_streamed_answer_agrees_with_the_whole_one() -> None:
    completion = whole(WHOLE)
    chunks, complete = stream_of(STREAM)

    assert complete
    assert assembled(chunks) == completion.choices[0].parts
    assert finish_reason(chunks) == completion.finish_reason
    assert last_usage(chunks) == completion.usage
    assert sum(chunk.output_chars for chunk in chunks) == sum(map(len, completion.generated))


@given(pieces_of(STREAM))
def test_any_split_of_the_bytes_gives_the_same_chunks(pieces: list[bytes]) -> None:
    assert stream_of(*pieces) == stream_of(STREAM)


def test_a_last_line_without_its_end_counts_and_empty_lines_do_not() -> None:
    assert stream_of(b"\n\r\n" + STREAM.rstrip(b"\n")) == stream_of(STREAM)


@pytest.mark.parametrize(("done_reason", "expected"), [("stop", "stop"), ("length", "length"), ("unload", "stop")])
def test_every_done_reason_has_a_finish_reason_streamed_or_not(done_reason: str, expected: str) -> None:
    done = DONE | {"done_reason": done_reason}

    assert whole(HEAD | {"message": {"content": "A"}} | done).finish_reason == expected
    assert finish_reason(stream_of(line(content="A"), line(done))[0]) == expected


def test_a_cut_stream_is_not_complete() -> None:
    chunks, complete = stream_of(STREAM[: STREAM.rindex(b"{")])

    assert not complete
    assert finish_reason(chunks) is None
    assert last_usage(chunks) is None


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_eval_count": None, "eval_count": None}, None),
        ({"prompt_eval_count": "26", "eval_count": -1}, None),
        ({"prompt_eval_count": None, "eval_count": 40}, Usage(output=40)),
    ],
)
def test_usage_that_is_missing_or_nonsense_is_not_invented(counts: dict[str, Any], expected: Usage | None) -> None:
    assert whole(WHOLE | counts).usage == expected


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"message":"text"}', b"\xff"])
def test_what_is_no_response_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        ollama.parse_completion(body, passthrough=False)


def test_an_error_line_fails_the_stream_after_what_came_before_it() -> None:
    parser = ollama.open_parser(passthrough=False)

    assert assembled(parser.parse_chunk(line(content="A") + b'{"error":"runner crashed at /var/lib"}\n')) == (
        Text("A"),
    )
    with pytest.raises(ProviderError) as raised:
        parser.parse_end()
    assert raised.value.kind == "stream"
    assert "runner" not in raised.value.message


def test_an_error_in_a_200_is_the_providers() -> None:
    with pytest.raises(ProviderError):
        whole({"error": "out of memory"})


def test_a_malformed_line_is_left_out() -> None:
    chunks, complete = stream_of(b"{broken\n" + STREAM)

    assert complete
    assert assembled(chunks) == assembled(stream_of(STREAM)[0])


@pytest.mark.parametrize("tail", [b"", b"\n"])
def test_a_giant_line_is_a_parse_error(tail: bytes) -> None:
    with pytest.raises(ParseError):
        stream_of(b"x" * (1 << 21) + tail)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, '"llama3" does not support tools', InvalidRequest),
        (400, "the input length exceeds the context length", ContextLengthExceeded),
        (401, "unauthorized", ProviderError),
        (404, "model 'llama9' not found", ProviderError),
        (429, "too many requests", ProviderError),
        (500, "model runner has unexpectedly stopped", ProviderError),
    ],
)
def test_every_refusal_has_its_class(status: int, message: str, expected: type[GatewayError]) -> None:
    error = ollama.parse_error(status, {"retry-after": "7"}, msgspec.json.encode({"error": message}))

    assert type(error) is expected
    if isinstance(error, ProviderError):
        assert (error.retryable, error.retry_after_s) == (True, 7.0)
        assert message not in error.message
    else:
        assert error.message == message


def test_a_refusal_without_a_readable_body_still_has_its_class() -> None:
    assert isinstance(ollama.parse_error(502, {}, b"<html>"), ProviderError)
