"""What a caller asks for at the top of its body and no other dialect has a word for."""

import json
from typing import Any

import pytest

from gateway.providers.client import CALLER_FORMATS, VENDOR_FORMATS, conversation_of
from gateway.wire.types import VendorProfile, VendorRequest
from gateway.wire.validation import MAX_UNKNOWN_FIELDS

BASES: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 99,
        "user": "ann",
        "safety_identifier": "ann",
        "prompt_cache_key": "k",
        "stream": False,
        "stream_options": None,
        "store": False,
        "logit_bias": {},
        "service_tier": "auto",
        "n": 1,
    },
    "openai_responses": {
        "input": "hi",
        "max_output_tokens": 99,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "include": [],
        "truncation": "disabled",
        "background": False,
    },
    "anthropic_messages": {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 99,
        "metadata": {"user_id": "ann"},
    },
}
PAIRS = [(dialect, vendor) for dialect in BASES for vendor in VENDOR_FORMATS["chat"]]


def sent(dialect: str, vendor: str, **more: Any) -> VendorRequest:
    request = CALLER_FORMATS[dialect].parse_request(json.dumps({"model": "any"} | BASES[dialect] | more).encode(), {})
    return VENDOR_FORMATS["chat"][vendor].render_request(request, conversation_of, "some-model", VendorProfile())


@pytest.mark.parametrize(("dialect", "vendor"), PAIRS)
def test_unknown_fields_are_noted_where_a_request_is_translated_and_go_on_where_it_is_not(
    dialect: str, vendor: str
) -> None:
    made = sent(dialect, vendor, verbosity="low", z_new={"a": 1})

    if dialect == vendor:
        assert made.dropped == ()
        assert json.loads(made.body)["z_new"] == {"a": 1}
    else:
        assert made.dropped == ("verbosity", "z_new")
        assert b"z_new" not in made.body


@pytest.mark.parametrize(("dialect", "vendor"), PAIRS)
def test_what_is_understood_or_asks_for_nothing_is_not_noted(dialect: str, vendor: str) -> None:
    assert sent(dialect, vendor, z_null=None, z_false=False, z_empty="", z_none=[]).dropped == ()


def test_names_that_fit_no_header_are_not_noted_and_there_are_few() -> None:
    odd = {"z\r\nset-cookie: a": 1, "grün": 1, "z z": 1, "z" * 65: 1, "": 1}
    many = {f"z{number}": 1 for number in range(100)}

    assert sent("openai_chat", "gemini", **odd, **many).dropped == tuple(f"z{n}" for n in range(MAX_UNKNOWN_FIELDS))
