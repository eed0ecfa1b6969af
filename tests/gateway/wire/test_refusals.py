from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, ProviderError, RequestTooLarge
from gateway.wire.refusals import MAX_MESSAGE_CHARS, REDACTED, classify_refusal, parse_retry_after, provider_code, scrub


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcDEF123456",
        "sk-ant-api03-xyz",
        "sk-ab***************wxyz",
        "gsk_1234567890",
        "xai-abcdefgh",
        "AIzaSyA-1234567890abcdef",
        "org-AbCd1234",
        "proj_abc123",
        "0123456789abcdef0123456789abcdef",
        "123e4567-e89b-12d3-a456-426614174000",
        "https://api.vendor.example/v1/chat?key=1",
        "api.openai.com",
        "my-resource.openai.azure.com:443",
        "localhost:8000",
        "10.1.2.3:9110",
        "/srv/vendor/app/main.py",
        "ops@vendor.example",
    ],
)
def test_scrub_removes_what_names_an_account_or_a_machine(secret: str) -> None:
    message = scrub(f"Refused: {secret} was not accepted.")

    assert secret.strip("*") not in message
    assert REDACTED in message
    assert message.startswith("Refused: ")
    assert message.endswith("accepted.")


def test_scrub_removes_credentials_after_their_label() -> None:
    assert scrub("header was Bearer abc.def and key: hunter2!") == f"header was {REDACTED} and key: {REDACTED}"


@pytest.mark.parametrize(
    "message",
    [
        "Invalid type for 'messages[0].content': expected a string, but got an integer instead.",
        "Unsupported value: 'temperature' does not support 0.5 with gpt-4.1-mini-2025-04-14.",
        "tool_call_ids did not have response messages: call_0123456789abcdefABCDEF0123456789",
        "Unknown field user_name or org_name.",
        "response_format.json_schema.name is required and/or empty",
    ],
)
def test_scrub_leaves_what_helps_the_caller(message: str) -> None:
    assert scrub(message) == message


def test_scrub_gives_one_bounded_line() -> None:
    assert scrub("a\r\n\tb\x00") == "a b"
    assert len(scrub("word " * 10_000)) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "1e300"}, 86400.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers) == seconds


def test_retry_after_date_becomes_seconds_from_now() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)

    assert parse_retry_after({"retry-after": date}) == pytest.approx(89, abs=2)


@pytest.mark.parametrize(
    ("code", "known"),
    [
        ("rate_limit_exceeded", "rate_limit_exceeded"),
        (429, "429"),
        (True, None),
        (None, None),
        ("a b", None),
        ("sk-secret123", None),
        ("x" * 65, None),
        (["a"], None),
    ],
)
def test_a_provider_code_is_shown_only_if_it_looks_like_one(code: object, known: str | None) -> None:
    assert provider_code(code) == known


@pytest.mark.parametrize(
    ("status", "kind", "our_status"),
    [
        (400, InvalidRequest, 400),
        (413, RequestTooLarge, 413),
        (422, InvalidRequest, 400),
        (401, ProviderError, 502),
        (402, ProviderError, 502),
        (403, ProviderError, 502),
        (404, ProviderError, 502),
        (408, ProviderError, 502),
        (409, ProviderError, 502),
        (429, ProviderError, 502),
        (500, ProviderError, 502),
        (529, ProviderError, 502),
        (302, ProviderError, 502),
    ],
)
def test_only_the_callers_own_mistakes_stay_the_callers(status: int, kind: type[GatewayError], our_status: int) -> None:
    error = classify_refusal(status, {"retry-after": "3"}, "Something sk-secret99 happened", "some_code")

    assert type(error) is kind
    assert error.status == our_status
    assert "sk-secret99" not in error.message
    if isinstance(error, ProviderError):
        assert "Something" not in error.message
        assert (error.vendor_status, error.vendor_code, error.retryable) == (status, "some_code", True)
        assert error.retry_after_s == 3.0
    else:
        assert error.message == "Something [redacted] happened"
        assert error.details == {"provider_code": "some_code"}


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Please reduce the length of the messages or completion.",
    ],
)
def test_a_prompt_that_does_not_fit_is_told_apart(message: str) -> None:
    assert isinstance(classify_refusal(400, {}, message), ContextLengthExceeded)
    assert isinstance(classify_refusal(413, {}, message), ContextLengthExceeded)
    assert isinstance(classify_refusal(429, {}, message), ProviderError)


def test_a_refusal_without_words_still_says_something() -> None:
    assert classify_refusal(400, {}, None).message == "The provider refused the request with status 400."
