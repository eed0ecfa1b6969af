"""A caller's request: validated, and sent on to a vendor of the same format."""

import json
from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire import openai_chat
from gateway.wire.types import Needs, Request, VendorProfile, VendorRequest

USER = {"role": "user", "content": "Hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}


def parse(body: dict[str, Any], **headers: str) -> Request:
    return openai_chat.parse_request(json.dumps(body).encode(), headers)


def send(body: bytes, **profile: Any) -> VendorRequest:
    request = openai_chat.parse_request(body, {})
    return openai_chat.render_request(request, openai_chat.parse_conversation, "vendor-model", VendorProfile(**profile))


def test_a_plain_request_is_outlined() -> None:
    request = parse(
        {
            "model": "small",
            "messages": [{"role": "system", "content": "Be brief."}, USER],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 50,
            "n": 2,
            "user": "u1",
            "x-timeout": 3,
            "vendor_field": {"kept": 1},
        }
    )

    assert (request.dialect, request.model, request.stream, request.include_usage) == (
        "openai_chat",
        "small",
        True,
        True,
    )
    assert (request.max_tokens, request.choices, request.end_user) == (50, 2, "u1")
    assert (request.needs, request.input_chars) == (Needs(), 11)
    assert request.extensions.timeout_s == 3.0
    assert "x-timeout" not in request.fields
    assert bytes(request.fields["vendor_field"]) == b'{"kept": 1}'


@pytest.mark.parametrize("model", [{}, {"model": ""}, {"model": None}])
def test_without_a_model_the_router_decides(model: dict[str, Any]) -> None:
    request = parse({"messages": [USER], **model})

    assert (request.model, request.stream, request.max_tokens, request.choices) == ("auto", False, None, 1)


def test_the_newer_names_win() -> None:
    request = parse(
        {"messages": [USER], "max_tokens": 5, "max_completion_tokens": 7, "user": "a", "safety_identifier": "b"}
    )

    assert (request.max_tokens, request.end_user) == (7, "b")


def test_usage_is_for_streams_only() -> None:
    assert not parse({"messages": [USER], "stream_options": {"include_usage": True}}).include_usage


@pytest.mark.parametrize(
    ("extra", "needs"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, Needs()),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, Needs(vision=True)),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, Needs(audio=True)),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, Needs(files=True)),
        ({"tools": [{"type": "function"}]}, Needs(tools=True)),
        ({"tools": []}, Needs()),
        ({"functions": [{"name": "f"}]}, Needs(tools=True)),
        ({"response_format": {"type": "json_object"}}, Needs()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, Needs(json_schema=True)),
    ],
)
def test_needs_are_known_without_a_translation(extra: dict[str, Any], needs: Needs) -> None:
    request = parse({"messages": [USER], **extra})

    assert request.needs == needs
    assert request._conversation is None


def test_input_counts_text_and_tools_but_no_media() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    content = [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "data:x" * 1000}}]

    request = parse({"messages": [{"role": "user", "content": content}], "tools": tools})

    assert request.input_chars == 3 + len(json.dumps(tools))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER, {"content": "no role"}]}, "messages[1].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [IMAGE, "x"]}]}, "messages[0].content[1]"),
        ({"messages": [USER], "model": 5}, "model"),
        ({"messages": [USER], "model": "m" * 257}, "model"),
        ({"messages": [USER], "stream": "yes"}, "stream"),
        ({"messages": [USER], "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [USER], "max_tokens": -5}, "max_tokens"),
        ({"messages": [USER], "max_tokens": 10**30}, "max_tokens"),
        ({"messages": [USER], "max_tokens": 1.5}, "max_tokens"),
        ({"messages": [USER], "max_completion_tokens": "10"}, "max_completion_tokens"),
        ({"messages": [USER], "max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"messages": [USER], "n": 0}, "n"),
        ({"messages": [USER], "n": 129}, "n"),
        ({"messages": [USER], "n": True}, "n"),
        ({"messages": [USER], "user": 7}, "user"),
        ({"messages": [USER], "tools": {"type": "function"}}, "tools"),
        ({"messages": [USER], "response_format": "json"}, "response_format"),
        ({"messages": [USER], "x-cache": "maybe"}, "x-cache"),
    ],
)
def test_what_is_wrong_is_a_400_that_names_the_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)

    assert caught.value.status == 400
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b'{"messages": NaN}', b'{"a":1,"a":2}', b'{"a":"\xff"}'])
def test_what_is_not_one_json_object_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="The body"):
        openai_chat.parse_request(body, {})


def test_every_byte_but_the_models_goes_on_untouched() -> None:
    messages = b'"messages":[{"role":"user", "content":"\\u00e9"}]'
    new = b'"new":{"b":1,"a":[ ]}'

    sent = send(b'{"temperature":1.50,"model":"auto","x-cache":true,' + messages + b"," + new + b"}")

    assert (sent.path, sent.dropped) == ("/chat/completions", ())
    assert sent.body == b'{"temperature":1.50,"model":"vendor-model",' + messages + b"," + new + b"}"


def test_rendering_leaves_the_request_as_it_is_for_the_next_target() -> None:
    request = parse({"model": "auto", "messages": [USER], "stream": True, "max_tokens": 5})
    before = {name: bytes(value) for name, value in request.fields.items()}

    profile = VendorProfile(max_tokens_field="max_completion_tokens", unsupported=frozenset({"stream"}))
    openai_chat.render_request(request, openai_chat.parse_conversation, "m", profile)

    assert {name: bytes(value) for name, value in request.fields.items()} == before


@pytest.mark.parametrize(
    ("options", "sent_options"),
    [
        (b"", b'{"include_usage":true}'),
        (b',"stream_options":null', b'{"include_usage":true}'),
        (b',"stream_options":{"include_usage":false,"other":1.0}', b'{"include_usage":true,"other":1.0}'),
    ],
)
def test_streams_always_ask_for_usage(options: bytes, sent_options: bytes) -> None:
    sent = send(b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true' + options + b"}")

    assert b'"stream_options":' + sent_options in sent.body


def test_a_vendor_without_stream_usage_is_not_asked_for_it() -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"stream":true,"stream_options":{"include_usage":true}}'

    sent = send(body, stream_usage=False)

    assert b"stream_options" not in sent.body
    assert sent.dropped == ("stream_options",)


def test_unsupported_fields_are_dropped_with_a_note() -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"logit_bias":{},"seed":1}'

    sent = send(body, unsupported=frozenset({"logit_bias", "service_tier"}))

    assert sent.dropped == ("logit_bias",)
    assert b"logit_bias" not in sent.body
    assert b'"seed":1' in sent.body


@pytest.mark.parametrize(
    ("limits", "field", "sent_limits"),
    [
        ('"max_tokens":5', "max_completion_tokens", {"max_completion_tokens": 5}),
        ('"max_completion_tokens":5', "max_tokens", {"max_tokens": 5}),
        ('"max_tokens":5,"max_completion_tokens":7', "max_tokens", {"max_tokens": 7}),
        ('"max_tokens":5,"max_completion_tokens":null', "max_completion_tokens", {"max_completion_tokens": 5}),
        ('"max_tokens":5,"max_completion_tokens":7', None, {"max_tokens": 5, "max_completion_tokens": 7}),
        ('"max_tokens":5', "max_tokens", {"max_tokens": 5}),
    ],
)
def test_the_token_limit_goes_under_the_name_the_vendor_knows(
    limits: str, field: str | None, sent_limits: dict[str, int]
) -> None:
    sent = send(f'{{"a":0,{limits},"messages":[{{"role":"user","content":"x"}}]}}'.encode(), max_tokens_field=field)

    fields = msgspec.json.decode(sent.body)
    assert {name: value for name, value in fields.items() if name.startswith("max_")} == sent_limits
    assert list(fields) == ["a", *sent_limits, "messages", "model"]


def test_a_schema_is_refused_where_the_vendor_has_none() -> None:
    body = b'{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema"}}'

    with pytest.raises(UnsupportedContent) as caught:
        send(body, json_schema=False)
    assert caught.value.param == "response_format"
