"""Conversations that were answered by other vendors before and now go to Anthropic in its own dialect."""

import json
from typing import Any

import pytest

from gateway.providers.client import conversation_of
from gateway.wire import anthropic_messages
from gateway.wire.anthropic_messages import count_tokens
from gateway.wire.types import VendorProfile, VendorRequest

OWN = {"type": "thinking", "thinking": "mine", "signature": "c2lnbmVk"}
OWN_REDACTED = {"type": "redacted_thinking", "data": "b3BhcXVl"}
FOREIGN = [
    {"type": "thinking", "thinking": "unsigned", "signature": ""},
    {"type": "thinking", "thinking": "never signed"},
    {"type": "thinking", "thinking": "another's", "signature": "gemini:c2lnbmVk"},
    {"type": "redacted_thinking", "data": ""},
    {"type": "redacted_thinking", "data": "other:b3BhcXVl"},
]
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "18"}
SAID = {"type": "text", "text": "Yes?"}
BUDGET = {"type": "enabled", "budget_tokens": 1024}
ASKED = {"role": "user", "content": "Hi"}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def sent(body: bytes) -> VendorRequest:
    request = anthropic_messages.parse_request(body, {})
    return anthropic_messages.render_request(request, conversation_of, "claude-sonnet-4-5", VendorProfile())


def sent_for(*messages: dict[str, Any], **fields: Any) -> tuple[VendorRequest, dict[str, Any]]:
    made = sent(json.dumps({"model": "any", "max_tokens": 2048, "messages": messages} | fields).encode())
    return made, json.loads(made.body)


def test_a_history_that_anthropic_signed_goes_on_byte_for_byte() -> None:
    messages = rb"""[{"role":"user","content":"about \"thinking\""},
        {"content" : [{"signature":"c2ln\/bmVk", "thinking":"mi\u006ee","type":"thinking"},
         {"type":"redacted_thinking","data":"b3BhcXVl"}, {"type":"text","text":"four"}], "role":"assistant"},
        {"role":"user","content":[{"type":"text","text":"five"}]}]"""
    made = sent(b'{"model":"any","max_tokens":9,"messages":%b,"z":1.50}' % messages)

    assert made.body == b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":%b,"z":1.50}' % messages
    assert made.dropped == ()


@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_thinking_stays_behind_with_a_note_and_the_rest_goes_on(foreign: dict[str, Any]) -> None:
    made, body = sent_for(ASKED, assistant(foreign, OWN, OWN_REDACTED, SAID), ASKED, thinking=BUDGET)

    assert body["messages"] == [ASKED, assistant(OWN, OWN_REDACTED, SAID), ASKED]
    assert body["thinking"] == BUDGET
    assert made.dropped == ("thinking",)


def test_only_the_turns_concerned_are_written_anew_and_their_blocks_keep_their_bytes() -> None:
    turns = [
        b'{"role": "user", "content": "Hi"}',
        b'{"content": [{"type":"thinking","signature":""},{"type": "text", "text":"\\u00e9"}], "z":1.50,"role":"assistant"}',
        b'{"role":"user" ,"content":[ ]}',
    ]
    made = sent(b'{"model":"any","max_tokens":9,"messages":[%b]}' % b", ".join(turns))

    left = b'{"content":[{"type": "text", "text":"\\u00e9"}],"z":1.50,"role":"assistant"}'
    expected = b",".join([turns[0], left, turns[2]])
    assert made.body == b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[%b]}' % expected


def test_a_turn_of_nothing_but_foreign_thinking_is_left_out() -> None:
    _, body = sent_for(ASKED, assistant(FOREIGN[0]), user(SAID))

    assert body["messages"] == [ASKED, user(SAID)]


@pytest.mark.parametrize(
    ("messages", "thinking", "kept"),
    [
        ([ASKED, assistant(FOREIGN[0], CALL), user(RESULT)], BUDGET, False),
        ([ASKED, assistant(FOREIGN[0], OWN, CALL), user(RESULT)], BUDGET, True),
        ([ASKED, assistant(FOREIGN[0], CALL), user(RESULT)], {"type": "adaptive"}, True),
        ([ASKED, assistant(FOREIGN[0], SAID), ASKED, assistant(CALL), user(RESULT)], BUDGET, True),
        ([ASKED, assistant(FOREIGN[0], CALL), user(RESULT), assistant(CALL), user(RESULT)], BUDGET, False),
        ([ASKED, assistant(FOREIGN[0], CALL), user(RESULT), assistant(SAID), ASKED], BUDGET, True),
        ([ASKED, assistant(FOREIGN[0], SAID)], BUDGET, True),
    ],
    ids=["bereft", "own thinking left", "adaptive", "another question's", "running calls", "answered", "prefill"],
)
def test_a_budget_is_not_asked_for_where_running_calls_lost_the_thinking_they_began_with(
    messages: list[dict[str, Any]], thinking: dict[str, Any], kept: bool
) -> None:
    made, body = sent_for(*messages, thinking=thinking)

    assert body.get("thinking") == (thinking if kept else None)
    assert made.dropped == (("thinking",) if kept else ("thinking", "thinking_budget"))


@pytest.mark.parametrize("setting", [None, 7, "enabled", {}])
def test_an_unsound_setting_is_left_for_the_vendor_to_refuse(setting: Any) -> None:
    _, body = sent_for(ASKED, assistant(FOREIGN[0], CALL), user(RESULT), thinking=setting)

    assert body["thinking"] == setting


def test_a_signature_of_another_type_is_left_for_the_vendor_to_refuse() -> None:
    odd = {"type": "thinking", "thinking": "x", "signature": 7}
    made, body = sent_for(ASKED, assistant(odd, SAID), ASKED)

    assert (body["messages"][1], made.dropped) == (assistant(odd, SAID), ())


def test_tokens_are_counted_without_foreign_thinking_too() -> None:
    body = json.dumps({"model": "any", "messages": [ASKED, assistant(FOREIGN[0], SAID), ASKED]}).encode()
    request = count_tokens.parse_request(body, {})
    made = count_tokens.render_request(request, conversation_of, "claude-sonnet-4-5", VendorProfile())

    assert json.loads(made.body)["messages"] == [ASKED, assistant(SAID), ASKED]
    assert made.dropped == ("thinking",)
