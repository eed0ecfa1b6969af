from typing import Any

import msgspec
import pytest
from hypothesis import given

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ProviderError
from gateway.wire import gemini
from gateway.wire.types import Chunk, ParseError, Text, Thinking, ToolCall, Usage
from tests.gateway.wire.assembly import assembled, finish_reason, last_usage, pieces_of, read

USAGE = {
    "promptTokenCount": 1200,
    "cachedContentTokenCount": 1000,
    "candidatesTokenCount": 40,
    "thoughtsTokenCount": 60,
    "toolUsePromptTokenCount": 5,
    "totalTokenCount": 1305,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1150}, {"modality": "AUDIO", "tokenCount": 50}],
}
HEAD = {"modelVersion": "gemini-3-flash", "responseId": "resp-1"}
CALL = {"functionCall": {"id": "fc-1", "name": "weather", "args": {"city": "Ulm"}}, "thoughtSignature": "c2ln"}
UNNAMED_CALL = {"functionCall": {"name": "now", "args": {}}}
PARTS = [
    {"text": "Two questions, two calls.", "thought": True},
    {"text": "Ich sehe nach \N{SUN BEHIND CLOUD}."},
    CALL,
    UNNAMED_CALL,
]


def response(*parts: Any, finish: str | None = "STOP", index: int = 0, usage: Any = USAGE) -> dict[str, Any]:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "finishReason": finish, "index": index}
    return HEAD | {"candidates": [candidate], "usageMetadata": usage}


def sse(*responses: dict[str, Any]) -> bytes:
    return b"".join(b"data: %b\r\n\r\n" % msgspec.json.encode(response) for response in responses)


def whole(body: dict[str, Any]) -> Any:
    return gemini.parse_completion(msgspec.json.encode(body), passthrough=False)


def stream_of(*pieces: bytes) -> tuple[list[Chunk], bool]:
    parser = gemini.open_parser(passthrough=False)
    return read(parser, pieces), parser.complete


EARLY = {"promptTokenCount": 1200, "cachedContentTokenCount": 1000, "promptTokensDetails": USAGE["promptTokensDetails"]}
STREAM = sse(
    response({"text": "Two questions,", "thought": True}, finish=None, usage=EARLY),
    response({"text": " two calls.", "thought": True}, finish=None, usage=EARLY),
    response({"text": "Ich sehe "}, finish=None, usage=EARLY | {"candidatesTokenCount": 4}),
    response({"text": "nach \N{SUN BEHIND CLOUD}."}, CALL, finish=None),
    response(UNNAMED_CALL, finish=None),
    response({"text": ""}),
)


def test_a_whole_answer_is_translated() -> None:
    completion = whole(response(*PARTS))
    *parts, unnamed = completion.choices[0].parts

    assert (completion.id, completion.model) == ("resp-1", "gemini-3-flash")
    assert parts == [
        Thinking("Two questions, two calls."),
        Text("Ich sehe nach \N{SUN BEHIND CLOUD}."),
        Thinking("", "gemini:c2ln"),
        ToolCall("fc-1", "weather", '{"city":"Ulm"}'),
    ]
    assert (unnamed.name, unnamed.arguments) == ("now", "{}")
    assert unnamed.id.startswith("call_")
    assert completion.finish_reason == "tool_calls"
    assert completion.usage == Usage(input=155, cached_input=1000, output=40, reasoning=60, audio_input=50)


def test_a_streamed_answer_agrees_with_the_whole_one() -> None:
    completion = whole(response(*PARTS))
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


def test_thinking_right_before_a_call_carries_its_signature() -> None:
    completion = whole(response(PARTS[0], CALL))

    assert completion.choices[0].parts[0] == Thinking("Two questions, two calls.", "gemini:c2ln")
    assert assembled(stream_of(sse(response(PARTS[0], CALL)))[0]) == completion.choices[0].parts


def test_generated_ids_differ_between_calls_and_between_answers() -> None:
    first = [part.id for part in whole(response(UNNAMED_CALL, UNNAMED_CALL)).choices[0].parts]
    second = [part.id for part in whole(response(UNNAMED_CALL) | {"responseId": "resp-2"}).choices[0].parts]

    assert len({*first, *second}) == 3
    assert first == [part.id for part in whole(response(UNNAMED_CALL, UNNAMED_CALL)).choices[0].parts]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", "stop"),
        ("OTHER", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
    ],
)
def test_every_finish_reason_has_its_counterpart_streamed_or_not(finish: str, expected: str) -> None:
    body = response({"text": "So"}, finish=finish)
    chunks, complete = stream_of(sse(body))

    assert whole(body).finish_reason == expected
    assert finish_reason(chunks) == expected
    assert complete


def test_a_call_its_vendor_could_not_read_is_a_failure_streamed_or_not() -> None:
    body = response(finish="MALFORMED_FUNCTION_CALL")

    for attempt in (lambda: whole(body), lambda: stream_of(sse(body))):
        with pytest.raises(ProviderError) as raised:
            attempt()
        assert raised.value.retryable


def test_a_blocked_prompt_is_a_content_filter_streamed_or_not() -> None:
    blocked = HEAD | {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
    }
    completion = whole(blocked)
    chunks, complete = stream_of(sse(blocked))

    assert (completion.finish_reason, completion.choices[0].parts) == ("content_filter", ())
    assert (finish_reason(chunks), complete) == ("content_filter", True)
    assert completion.usage == last_usage(chunks) == Usage(input=9)


def test_several_candidates_are_several_choices_streamed_or_not() -> None:
    first, second = response({"text": "A"}), response({"text": "B"}, finish="MAX_TOKENS", index=1)
    both = first | {"candidates": first["candidates"] + second["candidates"]}
    completion = whole(both)
    half, complete = stream_of(sse(response({"text": "A"}), response({"text": "B"}, finish=None, index=1)))
    chunks, _ = stream_of(sse(first, second))

    assert [choice.finish_reason for choice in completion.choices] == ["stop", "length"]
    assert [assembled(chunks, index) for index in (0, 1)] == [choice.parts for choice in completion.choices]
    assert finish_reason(chunks, 1) == "length"
    assert assembled(half, 1) == (Text("B"),)
    assert not complete


def test_a_cut_stream_is_not_complete_but_its_counts_so_far_are_known() -> None:
    chunks, complete = stream_of(STREAM[: len(STREAM) // 2])

    assert not complete
    assert finish_reason(chunks) is None
    assert chunks[0].usage == Usage(input=150, cached_input=1000, audio_input=50)


def test_usage_in_an_event_of_its_own_is_told() -> None:
    chunks, _ = stream_of(sse(response({"text": "A"}, usage=None), {"usageMetadata": USAGE}))

    assert last_usage(chunks) == whole(response({"text": "A"})).usage


@pytest.mark.parametrize("usage", [None, {}, {"promptTokenCount": "9"}, {"promptTokenCount": 0}])
def test_usage_that_is_missing_or_nonsense_is_not_invented(usage: Any) -> None:
    assert whole(response({"text": "A"}, usage=usage)).usage is None


def test_counts_that_contradict_each_other_are_never_negative() -> None:
    usage = {
        "promptTokenCount": 10,
        "cachedContentTokenCount": 50,
        "candidatesTokenCount": 3,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 99}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 99}],
    }

    assert whole(response({"text": "A"}, usage=usage)).usage == Usage(cached_input=10, audio_output=3)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"candidates":[]}', b'{"candidates":1}', b"\xff"])
def test_what_is_no_response_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        gemini.parse_completion(body, passthrough=False)


def error_body(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def test_an_error_in_a_stream_is_raised_after_what_came_before_it() -> None:
    parser = gemini.open_parser(passthrough=False)
    error = error_body(503, "UNAVAILABLE", "The model is overloaded.")

    assert assembled(parser.parse_chunk(sse(response({"text": "A"}, finish=None), error))) == (Text("A"),)
    with pytest.raises(ProviderError) as raised:
        parser.parse_end()
    assert (raised.value.kind, raised.value.vendor_status, raised.value.retryable) == ("stream", 503, True)


def test_an_error_in_a_200_is_the_providers() -> None:
    with pytest.raises(ProviderError) as raised:
        whole(error_body(500, "INTERNAL", "secret"))

    assert "secret" not in raised.value.message


def test_malformed_events_are_left_out() -> None:
    first, rest = STREAM.split(b"\r\n\r\n", 1)
    chunks, complete = stream_of(first + b"\r\n\r\ndata: {broken\r\n\r\n" + rest)

    assert complete
    assert assembled(chunks) == assembled(stream_of(STREAM)[0])


REASON = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "x"}
REFUSALS = [
    (400, error_body(400, "INVALID_ARGUMENT", "Invalid value at 'contents'"), InvalidRequest),
    (
        400,
        error_body(
            400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed (8)."
        ),
        ContextLengthExceeded,
    ),
    (400, error_body(400, "INVALID_ARGUMENT", "API key not valid.", REASON), ProviderError),
    (400, error_body(400, "FAILED_PRECONDITION", "User location is not supported."), ProviderError),
    (403, error_body(403, "PERMISSION_DENIED", "No access for key AIzaSy0"), ProviderError),
    (404, error_body(404, "NOT_FOUND", "models/x is not found"), ProviderError),
    (429, error_body(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), ProviderError),
    (503, error_body(503, "UNAVAILABLE", "The model is overloaded."), ProviderError),
]


@pytest.mark.parametrize(("status", "body", "expected"), REFUSALS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_refusal_has_its_class(
    status: int, body: dict[str, Any], expected: type[GatewayError], wrapped: bool
) -> None:
    error = gemini.parse_error(status, {}, msgspec.json.encode([body] if wrapped else body))

    assert type(error) is expected
    if isinstance(error, ProviderError):
        assert error.retryable
        assert error.vendor_code == body["error"]["status"]
        assert body["error"]["message"] not in error.message


def test_the_retry_delay_in_the_details_is_obeyed() -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
    body = msgspec.json.encode(error_body(429, "RESOURCE_EXHAUSTED", "Quota exceeded", retry))

    assert gemini.parse_error(429, {}, body).retry_after_s == 34.5
    assert gemini.parse_error(429, {"retry-after": "3"}, b"").retry_after_s == 3
