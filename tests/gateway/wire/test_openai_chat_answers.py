"""Whole answers, refusals and usage: from a chat vendor, and to a chat caller."""

import json
from typing import Any

import pytest

from gateway.errors import (
    AllTargetsFailed,
    ContextLengthExceeded,
    InvalidRequest,
    ProviderError,
    RateLimitExceeded,
)
from gateway.wire import openai_chat
from gateway.wire.openai_chat.usage import parse_usage
from gateway.wire.types import (
    Choice,
    Completion,
    ParseError,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    Usage,
)

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 2},
}


def answer(message: dict[str, Any] | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "created": 1700000000, "model": "m-1", "choices": [choice], "usage": USAGE}
    return json.dumps(body | fields).encode()


# --------------------------------------------------------------------------- usage


def test_inclusive_counts_are_taken_apart() -> None:
    usage = parse_usage(USAGE)

    assert usage == Usage(input=14, cached_input=5, audio_input=1, output=4, reasoning=4, audio_output=2)
    assert (usage.total_input, usage.total_output) == (20, 10)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Usage(input=20, output=10)),
        ({"prompt_tokens_details": None, "completion_tokens_details": None}, Usage(input=20, output=10)),
        ({"prompt_cache_hit_tokens": 15, "prompt_cache_miss_tokens": 5}, Usage(input=5, cached_input=15, output=10)),
        ({"cached_tokens": 3}, Usage(input=17, cached_input=3, output=10)),
        ({"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 6}}, Usage(10, 4, 6, output=10)),
        ({"prompt_tokens_details": {"cache_creation_tokens": 6}}, Usage(14, 0, 6, output=10)),
        ({"cache_read_input_tokens": 4, "cache_creation_input_tokens": 6}, Usage(10, 4, 6, output=10)),
        ({"prompt_tokens_details": {"cached_tokens": 21}}, Usage(input=20, output=10)),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, Usage(input=20, output=10)),
        ({"prompt_tokens_details": {"cached_tokens": "5"}}, Usage(input=20, output=10)),
        ({"prompt_tokens_details": [5]}, Usage(input=20, output=10)),
        ({"prompt_tokens": 20.0, "completion_tokens": 10.0}, Usage(input=20, output=10)),
        ({"completion_tokens_details": {"reasoning_tokens": 11}}, Usage(input=20, output=10)),
        ({"completion_tokens_details": {"reasoning_tokens": 10}}, Usage(input=20, output=0, reasoning=10)),
        (
            {"completion_tokens_details": {"reasoning_tokens": 300}, "total_tokens": 330},
            Usage(input=20, output=10, reasoning=300),
        ),
    ],
)
def test_every_vendors_habits_end_in_disjoint_classes(fields: dict[str, Any], expected: Usage) -> None:
    assert parse_usage({"prompt_tokens": 20, "completion_tokens": 10} | fields) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("flex", "flex"),
        ("batch", "batch"),
        ("priority", "priority"),
        ("default", ""),
        (None, ""),
        ("ultrafast", "ultrafast"),
        ("scale", ""),
        ("gold", "other"),
        (7, ""),
    ],
)
def test_usage_knows_in_which_tier_of_service_the_call_was_served(said: object, expected: str) -> None:
    usage = parse_usage({"prompt_tokens": 20, "completion_tokens": 10}, said)
    assert usage is not None
    assert usage.service_tier == expected


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "20",
        [],
        {},
        {"prompt_tokens": None, "completion_tokens": 5},
        {"prompt_tokens": 5},
        {"prompt_tokens": "5", "completion_tokens": "5"},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 10**12, "completion_tokens": 1},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    ],
)
def test_usage_that_cannot_be_believed_is_missing(usage: object) -> None:
    assert parse_usage(usage) is None


def test_a_missing_count_follows_from_the_total() -> None:
    assert parse_usage({"prompt_tokens": 5, "total_tokens": 8}) == Usage(input=5, output=3)


# --------------------------------------------------------------------------- whole answers


def test_a_passed_through_answer_is_read_for_accounting_only() -> None:
    body = answer()

    completion = openai_chat.parse_completion(body, passthrough=True)

    assert completion.body is body
    assert (completion.id, completion.model, completion.finish_reason) == ("chatcmpl-1", "m-1", "stop")
    assert completion.usage == parse_usage(USAGE)
    assert completion.choices == ()


def test_without_usage_it_is_known_what_was_generated() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm", "tool_calls": [call]}

    completion = openai_chat.parse_completion(answer(message, usage=None), passthrough=True)

    assert (completion.usage, completion.generated) == (None, ("Hm", "Hello", '{"a":1}'))


def test_a_translated_answer_has_canonical_choices() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    choices = [
        {"message": {"content": "Hi", "reasoning": "Hm", "tool_calls": [call]}, "finish_reason": "tool_calls"},
        {"message": {"content": None, "refusal": "No."}, "finish_reason": "content_filter"},
        {"message": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"text": "x"}]}},
        {"message": {"function_call": {"name": "g", "arguments": "{}"}}, "finish_reason": "function_call"},
        {"message": {"content": "cut"}, "finish_reason": "max_tokens"},
        {"message": None, "finish_reason": "eos"},
    ]

    completion = openai_chat.parse_completion(answer(choices=choices), passthrough=False)

    assert completion.choices == (
        Choice((Thinking("Hm"), Text("Hi"), ToolCall("c1", "f", '{"a":1}')), "tool_calls"),
        Choice((Refusal("No."),), "content_filter"),
        Choice((Thinking("Hm"), Text("x")), "stop"),
        Choice((ToolCall("call_0", "g", "{}"),), "tool_calls"),
        Choice((Text("cut"),), "length"),
        Choice((), "stop"),
    )
    assert (completion.body, completion.created) == (None, 1700000000)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":5}', b'"\xff"'])
def test_what_is_no_completion_is_a_parse_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        openai_chat.parse_completion(body, passthrough=True)


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        ({"message": "sk-secret at https://x.test", "code": 502}, "502", True),
        ({"message": "too long", "code": "context_length_exceeded"}, "context_length_exceeded", False),
        ({"message": "bad", "code": 400}, "400", False),
        ("overloaded", None, True),
    ],
)
def test_an_error_in_a_200_is_the_providers(error: Any, code: str | None, retryable: bool) -> None:
    with pytest.raises(ProviderError) as caught:
        openai_chat.parse_completion(answer(error=error), passthrough=True)

    assert (caught.value.vendor_code, caught.value.retryable) == (code, retryable)
    assert caught.value.message == "The provider reported an error in place of an answer."


def test_an_answer_the_vendor_broke_off_is_no_success() -> None:
    choice = {"message": {"content": "Hal"}, "finish_reason": "insufficient_system_resource"}

    with pytest.raises(ProviderError):
        openai_chat.parse_completion(answer(choices=[choice]), passthrough=True)


# --------------------------------------------------------------------------- to the caller


@pytest.mark.parametrize("end", [b"", b"\n", b" \r\n"])
def test_metadata_is_spliced_in_and_every_vendor_byte_kept(end: bytes) -> None:
    body = answer(odd={"price": 1.50, "text": "}"}) + end
    completion = openai_chat.parse_completion(body, passthrough=True)

    rendered = openai_chat.render_completion(completion, {"request_id": "r1", "cost_usd": "0.1"})

    assert rendered == body[: body.rindex(b"}")] + b',"x-gateway":{"request_id":"r1","cost_usd":"0.1"}}' + end
    assert json.loads(rendered)["x-gateway"] == {"request_id": "r1", "cost_usd": "0.1"}
    assert openai_chat.render_completion(completion, None) is body


def test_metadata_fits_an_empty_object_too() -> None:
    assert openai_chat.render_completion(Completion("", "", None, body=b"{ }"), {"a": 1}) == b'{ "x-gateway":{"a":1}}'


def test_a_translated_answer_is_a_full_chat_completion() -> None:
    completion = Completion(
        id="msg_1",
        model="claude",
        usage=Usage(input=10, cached_input=5, cache_write_5m=2, output=7, reasoning=3),
        choices=(
            Choice((Thinking("Hm"), Text("a"), Text("b"), ToolCall("c1", "f", "")), "tool_calls"),
            Choice((Refusal("No."),), "content_filter"),
            Choice((), "stop"),
            Choice((ToolCall("c2", "g", "{}"),), "tool_calls"),
        ),
        created=1700000000,
    )

    rendered = json.loads(openai_chat.render_completion(completion, {"request_id": "r1"}))

    def call(call_id: str, name: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}

    assert [choice.pop("message") for choice in rendered["choices"]] == [
        {
            "role": "assistant",
            "content": "ab",
            "refusal": None,
            "reasoning_content": "Hm",
            "tool_calls": [call("c1", "f")],
        },
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": "", "refusal": None},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call("c2", "g")]},
    ]
    assert [choice["finish_reason"] for choice in rendered["choices"]] == [
        "tool_calls",
        "content_filter",
        "stop",
        "tool_calls",
    ]
    assert [choice["index"] for choice in rendered["choices"]] == [0, 1, 2, 3]
    assert rendered["usage"] == {
        "prompt_tokens": 17,
        "completion_tokens": 10,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
    }
    assert (rendered["id"], rendered["object"], rendered["created"]) == (
        "chatcmpl-msg_1",
        "chat.completion",
        1700000000,
    )
    assert rendered["x-gateway"] == {"request_id": "r1"}


def test_what_is_rendered_is_read_back_the_same() -> None:
    choice = Choice((Thinking("Hm"), Text("a"), ToolCall("c1", "f", '{"a":1}')), "tool_calls")
    usage = Usage(input=10, cached_input=5, output=7, reasoning=3, audio_input=2, audio_output=1)
    completion = Completion("chatcmpl-9", "m", usage, (choice,), created=1700000000)

    again = openai_chat.parse_completion(openai_chat.render_completion(completion, None), passthrough=False)

    assert (again.choices, again.usage, again.id, again.created) == ((choice,), usage, "chatcmpl-9", 1700000000)


def test_errors_have_openais_shape() -> None:
    error = json.loads(openai_chat.render_error(InvalidRequest("Bad.", param="n", details={"message": "x"}), "r1"))
    attempts = json.loads(openai_chat.render_error(AllTargetsFailed("All failed.", [{"provider": "a"}]), "r2"))

    assert error == {
        "error": {
            "message": "Bad.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request_error",
            "request_id": "r1",
        }
    }
    assert attempts["error"]["code"] == "provider_error"
    assert attempts["error"]["attempts"] == [{"provider": "a"}]
    assert b'"rate_limit_exceeded"' in openai_chat.render_error(RateLimitExceeded("Slow."), "r3")


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Bad value.", "type": "invalid_request_error", "param": "n", "code": None}},
        {"error": "Bad value."},
        {"object": "error", "message": "Bad value.", "code": 400},
        {"message": "Bad value."},
        {"detail": "Bad value."},
        [{"error": {"message": "Bad value."}}],
    ],
)
def test_the_callers_mistake_is_told_in_the_vendors_words(body: Any) -> None:
    error = openai_chat.parse_error(400, {}, json.dumps(body).encode())

    assert type(error) is InvalidRequest
    assert error.message == "Bad value."


def test_a_named_field_and_code_come_along() -> None:
    body = {"error": {"message": "Flagged.", "param": "messages", "code": "content_filter"}}

    error = openai_chat.parse_error(400, {}, json.dumps(body).encode())

    assert (error.param, error.details) == ("messages", {"provider_code": "content_filter"})


def test_context_length_is_told_by_code() -> None:
    body = b'{"error":{"message":"No.","code":"context_length_exceeded"}}'

    assert isinstance(openai_chat.parse_error(400, {}, body), ContextLengthExceeded)


@pytest.mark.parametrize("status", [401, 403])
def test_our_credentials_failing_is_never_told_in_the_vendors_words(status: int) -> None:
    body = b'{"error":{"message":"Incorrect API key provided: sk-ab****yz","code":"invalid_api_key"}}'

    error = openai_chat.parse_error(status, {}, body)

    assert isinstance(error, ProviderError)
    assert error.message == "The provider refused the gateway's credentials."
    assert (error.vendor_status, error.vendor_code, error.status) == (status, "invalid_api_key", 502)


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b"5", b'{"error":5}', b"\xff", b"[" * 9999])
def test_any_body_at_all_makes_a_provider_error(body: bytes) -> None:
    error = openai_chat.parse_error(503, {"retry-after": "2"}, body)

    assert isinstance(error, ProviderError)
    assert (error.retryable, error.retry_after_s, error.vendor_status) == (True, 2.0, 503)
    assert openai_chat.parse_error(400, {}, body).status == 400
