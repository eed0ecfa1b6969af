from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ProviderError, RequestTooLarge
from gateway.wire import anthropic_messages
from gateway.wire.types import Chunk, ParseError, Text, Thinking, ToolCall, Usage
from tests.gateway.wire.assembly import assembled, finish_reason, last_usage, pieces_of, read

USAGE = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "cache_read_input_tokens": 1000,
    "output_tokens": 90,
    "service_tier": "standard",
}
CONTENT = [
    {"type": "thinking", "thinking": "Two cities, two calls.", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
    {"type": "text", "text": "Ich sehe nach \N{SUN BEHIND CLOUD}."},
    {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {"city": "Ulm", "days": 2}},
    {"type": "tool_use", "id": "toolu_02", "name": "now", "input": {}},
]
WHOLE = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": CONTENT,
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": USAGE,
}
PARTS = (
    Thinking("Two cities, two calls.", "c2lnbmVk"),
    Thinking(redacted="b3BhcXVl"),
    Text("Ich sehe nach \N{SUN BEHIND CLOUD}."),
    ToolCall("toolu_01", "weather", '{"city":"Ulm","days":2}'),
    ToolCall("toolu_02", "now", "{}"),
)


def event(type_: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (type_.encode(), msgspec.json.encode({"type": type_, **fields}))


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return b"".join(
        [
            event("content_block_start", index=index, content_block=start),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        ]
    )


START = event(
    "message_start",
    message=WHOLE | {"content": [], "stop_reason": None, "usage": USAGE | {"output_tokens": 3}},
)
END = event(
    "message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 90}
) + event("message_stop")
STREAM = b"".join(
    [
        START,
        event("ping"),
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Two cities,"},
            {"type": "thinking_delta", "thinking": " two calls."},
            {"type": "signature_delta", "signature": "c2lnbmVk"},
        ),
        block(1, {"type": "redacted_thinking", "data": "b3BhcXVl"}),
        block(
            2,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Ich sehe "},
            {"type": "text_delta", "text": "nach \N{SUN BEHIND CLOUD}."},
        ),
        block(
            3,
            {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
            {"type": "input_json_delta", "partial_json": '{"city":"U'},
            {"type": "input_json_delta", "partial_json": 'lm","days":2}'},
        ),
        block(
            4,
            {"type": "tool_use", "id": "toolu_02", "name": "now", "input": {}},
            {"type": "input_json_delta", "partial_json": ""},
        ),
        END,
    ]
)


def stream_of(*pieces: bytes) -> tuple[list[Chunk], bool]:
    parser = anthropic_messages.open_parser(passthrough=False)
    return read(parser, pieces), parser.complete


def test_a_whole_answer_is_translated() -> None:
    completion = anthropic_messages.parse_completion(msgspec.json.encode(WHOLE), passthrough=False)

    assert (completion.id, completion.model) == ("msg_01", "claude-sonnet-4-5-20250929")
    assert completion.choices[0].parts == PARTS
    assert completion.finish_reason == completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage == Usage(input=12, cached_input=1000, cache_write_5m=100, cache_write_1h=200, output=90)
    assert [len(text) for text in completion.generated] == [22, 0, 16, 23, 2]


def test_a_streamed_answer_agrees_with_the_whole_one() -> None:
    completion = anthropic_messages.parse_completion(msgspec.json.encode(WHOLE), passthrough=False)
    chunks, complete = stream_of(STREAM)

    assert complete
    assert assembled(chunks) == completion.choices[0].parts
    assert finish_reason(chunks) == completion.finish_reason
    assert last_usage(chunks) == completion.usage
    assert sum(chunk.output_chars for chunk in chunks) == sum(map(len, completion.generated))
    assert (chunks[0].id, chunks[0].model) == (completion.id, completion.model)


@given(pieces_of(STREAM))
def test_any_split_of_the_bytes_gives_the_same_chunks(pieces: list[bytes]) -> None:
    assert stream_of(*pieces) == stream_of(STREAM)


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("something_new", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_every_stop_reason_has_a_finish_reason_streamed_or_not(stop_reason: str, expected: str) -> None:
    whole = msgspec.json.encode(WHOLE | {"content": [], "stop_reason": stop_reason})
    chunks, complete = stream_of(START, event("message_delta", delta={"stop_reason": stop_reason}))

    assert anthropic_messages.parse_completion(whole, passthrough=False).finish_reason == expected
    assert finish_reason(chunks) == expected
    assert complete


def test_the_matched_stop_sequence_is_told() -> None:
    ending = {"stop_reason": "stop_sequence", "stop_sequence": "END"}
    completion = anthropic_messages.parse_completion(msgspec.json.encode(WHOLE | ending), passthrough=False)
    chunks, _ = stream_of(event("message_delta", delta=ending, usage={"output_tokens": 1}))

    assert completion.choices[0].stop_sequence == chunks[-1].stop_sequence == "END"


@pytest.mark.parametrize("cut", [len(START), len(STREAM) // 2, len(STREAM) - len(END) - 1])
def test_a_cut_stream_is_not_complete_but_its_input_is_known(cut: int) -> None:
    chunks, complete = stream_of(STREAM[:cut])

    assert not complete
    assert finish_reason(chunks) is None
    assert chunks[0].usage is not None
    assert chunks[0].usage.total_input == 1312


def test_calls_are_numbered_by_call_whatever_blocks_surround_them() -> None:
    chunks, _ = stream_of(STREAM)

    assert [(delta.index, delta.id) for chunk in chunks for delta in chunk.tool_calls if delta.id] == [
        (0, "toolu_01"),
        (1, "toolu_02"),
    ]


def test_a_call_whose_input_comes_with_its_block_is_whole() -> None:
    start = {"type": "tool_use", "id": "toolu_01", "name": "f", "input": {"a": 1}}

    assert assembled(stream_of(START, block(0, start))[0]) == (ToolCall("toolu_01", "f", '{"a":1}'),)


def test_thinking_tokens_are_taken_out_of_the_output_where_they_are_told() -> None:
    usage = USAGE | {"output_tokens_details": {"thinking_tokens": 60}}
    completion = anthropic_messages.parse_completion(msgspec.json.encode(WHOLE | {"usage": usage}), passthrough=False)

    assert completion.usage is not None
    assert (completion.usage.output, completion.usage.reasoning) == (30, 60)


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"input_tokens": "12", "output_tokens": -1}, {"input_tokens": 0, "output_tokens": 0}],
)
def test_usage_that_is_missing_or_nonsense_is_not_invented(usage: Any) -> None:
    whole = msgspec.json.encode(WHOLE | {"usage": usage})

    assert anthropic_messages.parse_completion(whole, passthrough=False).usage is None


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_cache_writes_add_up_to_the_total_whatever_the_breakdown(total: int, short: int, long: int) -> None:
    usage = USAGE | {
        "cache_creation_input_tokens": total,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
    }
    read_usage = anthropic_messages.parse_completion(
        msgspec.json.encode(WHOLE | {"usage": usage}), passthrough=False
    ).usage

    assert read_usage is not None
    assert read_usage.cache_write_5m + read_usage.cache_write_1h == total
    assert min(read_usage.cache_write_5m, read_usage.cache_write_1h) >= 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id":"msg_01"}', b'{"content":"text"}', b"\xff"])
def test_what_is_no_message_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        anthropic_messages.parse_completion(body, passthrough=False)


def error_body(type_: str, message: str) -> bytes:
    return msgspec.json.encode({"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"})


def test_an_error_in_a_200_is_the_providers() -> None:
    with pytest.raises(ProviderError) as raised:
        anthropic_messages.parse_completion(error_body("overloaded_error", "Overloaded"), passthrough=False)

    assert (raised.value.vendor_status, raised.value.retryable) == (529, True)


@pytest.mark.parametrize(
    ("type_", "retryable"),
    [("overloaded_error", True), ("api_error", True), ("brand_new_error", True), ("invalid_request_error", False)],
)
def test_an_error_event_fails_the_stream_after_what_came_before_it(type_: str, retryable: bool) -> None:
    failing = STREAM[: len(STREAM) // 2] + b"\n\n" + event("error", error={"type": type_, "message": "secret"})
    parser = anthropic_messages.open_parser(passthrough=False)

    assert assembled(parser.parse_chunk(failing))
    with pytest.raises(ProviderError) as raised:
        parser.parse_end()
    assert (raised.value.kind, raised.value.vendor_code, raised.value.retryable) == ("stream", type_, retryable)
    assert "secret" not in raised.value.message
    assert not parser.complete


def test_an_error_event_that_comes_first_is_raised_at_once() -> None:
    with pytest.raises(ProviderError):
        stream_of(event("error", error={"type": "overloaded_error", "message": "Overloaded"}))


def test_malformed_and_unknown_events_are_left_out() -> None:
    noise = b"data: {broken\n\n" + event("content_block_delta") + event("fresh_event", index="?")
    chunks, complete = stream_of(START + noise, STREAM[len(START) :])

    assert complete
    assert assembled(chunks) == PARTS


def test_a_giant_event_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        stream_of(b"data: " + b"x" * (1 << 21))


REFUSALS = [
    (400, "invalid_request_error", "messages: roles must alternate", InvalidRequest),
    (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", ContextLengthExceeded),
    (413, "request_too_large", "Request exceeds the maximum size", RequestTooLarge),
    (400, "invalid_request_error", "Your credit balance is too low to access the API.", ProviderError),
    (401, "authentication_error", "invalid x-api-key sk-ant-123", ProviderError),
    (403, "permission_error", "Your API key does not have permission", ProviderError),
    (404, "not_found_error", "model: claude-9", ProviderError),
    (429, "rate_limit_error", "Number of requests has exceeded your limit", ProviderError),
    (500, "api_error", "Internal server error", ProviderError),
    (529, "overloaded_error", "Overloaded", ProviderError),
]


@pytest.mark.parametrize(("status", "type_", "message", "expected"), REFUSALS)
def test_every_refusal_has_its_class(status: int, type_: str, message: str, expected: type[GatewayError]) -> None:
    error = anthropic_messages.parse_error(status, {"retry-after": "7"}, error_body(type_, message))

    assert type(error) is expected
    if isinstance(error, ProviderError):
        assert (error.retryable, error.retry_after_s, error.vendor_code) == (True, 7.0, type_)
        assert message not in error.message
    else:
        assert error.message == message


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'{"error": "text"}', b"[1]", b"\xff"])
def test_a_refusal_without_a_readable_body_still_has_its_class(body: bytes) -> None:
    assert isinstance(anthropic_messages.parse_error(502, {}, body), ProviderError)
    assert isinstance(anthropic_messages.parse_error(400, {}, body), InvalidRequest)
