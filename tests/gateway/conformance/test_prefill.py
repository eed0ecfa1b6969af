"""Conversations that end with an assistant's turn: the scripted vendors continue it, refuse it or start over."""

import re
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer, signature_of
from tests.gateway.conformance.sample_requests import BOTH_WAYS, TEXT8, USER, events_of, request_of

BEGUN = "tok1 tok2 tok3"
REST = " tok4 tok5 tok6 tok7 tok8"
CONTINUING = pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini", "ollama"])


def begun(dialect: str, model: str, text: str, stream: bool = False) -> tuple[str, dict[str, Any]]:
    """Path and body of a request whose last turn is the beginning of the answer."""
    path, body = request_of(dialect, model, stream)
    if dialect == "gemini":
        body["contents"] = [*body["contents"], {"role": "model", "parts": [{"text": text}]}]
    elif dialect == "openai-responses":
        body["input"] = [*USER, {"role": "assistant", "content": text}]
    else:
        body["messages"] = [*USER, {"role": "assistant", "content": text}]
    return path, body


def said(dialect: str, response: httpx.Response) -> str:
    """The text of an answer, whole or streamed."""
    assert response.status_code == 200, response.text
    texts = []
    for event in events_of(response.text):
        match dialect:
            case "openai":
                told = [choice.get("message") or choice["delta"] for choice in event["choices"]]
                texts += [message.get("content") or "" for message in told]
            case "anthropic":
                blocks = [event["delta"]] if "delta" in event else event.get("content", [])
                texts += [block.get("text", "") for block in blocks]
            case "gemini":
                texts += [part["text"] for part in event["candidates"][0]["content"]["parts"]]
            case "ollama":
                texts.append(event["message"]["content"])
            case _:
                texts += [part["text"] for item in event.get("output", []) for part in item["content"]]
    return "".join(texts)


class TestContinuation:
    @CONTINUING
    @BOTH_WAYS
    def test_the_answer_is_just_the_rest(
        self, dialect: str, stream: bool, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = begun(dialect, "m-tok8", BEGUN, stream)
        assert said(dialect, http.post(path, json=body)) == REST
        call = vendor.log[-1]
        assert (call.metered.input, call.metered.output) == (4 + 3, 5)

    @pytest.mark.parametrize("dialect", ["openai", "gemini", "ollama"])
    def test_a_space_or_half_a_word_is_not_said_twice(self, dialect: str, http: httpx.Client) -> None:
        for text, rest in {
            "tok1 tok2 ": "tok3",
            "tok1 to": "k2 tok3",
            "tok1": " tok2 tok3",
            "tok1 tok2 tok3": "",
        }.items():
            path, body = begun(dialect, "m-tok3", text)
            assert said(dialect, http.post(path, json=body)) == rest

    @CONTINUING
    def test_another_beginning_is_answered_in_full(self, dialect: str, http: httpx.Client) -> None:
        path, body = begun(dialect, "m-tok8", "Well:")
        assert said(dialect, http.post(path, json=body)) == TEXT8

    @CONTINUING
    @BOTH_WAYS
    def test_freshprefill_starts_over(self, dialect: str, stream: bool, http: httpx.Client) -> None:
        path, body = begun(dialect, "m-tok8-freshprefill", BEGUN, stream)
        assert said(dialect, http.post(path, json=body)) == TEXT8

    def test_responses_begins_a_turn_of_its_own(self, http: httpx.Client) -> None:
        for model in ("m-tok8", "m-tok8-noprefill"):
            path, body = begun("openai-responses", model, BEGUN)
            assert said("openai-responses", http.post(path, json=body)) == TEXT8

    def test_limits_and_stop_sequences_hold_for_the_rest(self, oai: openai.OpenAI) -> None:
        messages = [*USER, {"role": "assistant", "content": BEGUN, "prefix": True}]
        short = oai.chat.completions.create(model="m-tok8", messages=messages, max_tokens=2).choices[0]
        assert (short.message.content, short.finish_reason) == (" tok4 tok5", "length")
        stopped = oai.chat.completions.create(model="m-tok8-stop", messages=messages, stop=[" tok6"]).choices[0]
        assert stopped.message.content == " tok4 tok5"

    def test_anthropics_sdk_reads_the_rest(self, claude: anthropic.Anthropic) -> None:
        turns = [*USER, {"role": "assistant", "content": [{"type": "text", "text": BEGUN}]}]
        with claude.messages.stream(model="m-tok8", max_tokens=99, messages=turns) as stream:
            assert stream.get_final_text() == REST

    def test_a_varying_text_is_continued_too(self, oai: openai.OpenAI) -> None:
        def ask(*turns: dict[str, Any]) -> str:
            return (
                oai.chat.completions.create(model="m-tok5-vary3", messages=[*USER, *turns]).choices[0].message.content
            )

        first, second = ask(), ask()
        assert re.fullmatch(r"tok1 tok2 tok3~\d+ tok4~\d+ tok5~\d+", first)
        assert first != second
        rest = ask({"role": "assistant", "content": " ".join(first.split()[:3])})
        assert re.fullmatch(r" tok4~\d+ tok5~\d+", rest)


class TestRefusal:
    @CONTINUING
    @BOTH_WAYS
    def test_noprefill_refuses_in_the_vendors_words(self, dialect: str, stream: bool, http: httpx.Client) -> None:
        path, body = begun(dialect, "m-tok8-noprefill", BEGUN, stream)
        response = http.post(path, json=body)
        assert response.status_code == 400
        wording = {
            "openai": "Expected last role User or Tool",
            "anthropic": "does not support assistant message prefill",
            "gemini": "Requests ending with a model turn",
            "ollama": "does not support",
        }
        assert wording[dialect] in response.text
        path, body = request_of(dialect, "m-tok8-noprefill", stream)
        assert http.post(path, json=body).status_code == 200

    def test_a_prefix_is_only_for_the_last_message(self, http: httpx.Client) -> None:
        _, body = request_of("openai", "m-tok8", stream=False)
        body["messages"] = [{"role": "assistant", "content": "tok1", "prefix": True}, *USER]
        assert http.post("/v1/chat/completions", json=body).status_code == 400

    @pytest.mark.parametrize("content", [BEGUN + " ", [{"type": "text", "text": BEGUN + "\n"}]])
    def test_anthropic_refuses_white_space_at_the_end(self, claude: anthropic.Anthropic, content: Any) -> None:
        turns = [*USER, {"role": "assistant", "content": content}]
        with pytest.raises(anthropic.BadRequestError, match="trailing whitespace"):
            claude.messages.create(model="m-tok8", max_tokens=99, messages=turns)

    def test_anthropic_wants_a_thinking_models_turn_to_begin_with_thinking(self, claude: anthropic.Anthropic) -> None:
        def ask(*blocks: dict[str, Any]) -> str:
            turns = [*USER, {"role": "assistant", "content": list(blocks)}]
            thinking = {"type": "enabled", "budget_tokens": 1024}
            return (
                claude.messages.create(model="m-tok8", max_tokens=2048, messages=turns, thinking=thinking)
                .content[0]
                .text
            )

        text = {"type": "text", "text": BEGUN}
        thought = {"type": "thinking", "thinking": "think1", "signature": signature_of("think1")}
        assert ask(thought, text) == REST
        with pytest.raises(anthropic.BadRequestError, match="Expected `thinking`"):
            ask(text)
        with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
            ask({**thought, "signature": signature_of("another")}, text)
