"""Vendors that are limited or away for a while, and say so."""

import time
from datetime import datetime

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests.gateway.conformance.sample_requests import BOTH_WAYS, DIALECTS, USER, chat, request_of

OPENAI = "x-ratelimit-remaining-requests"
ANTHROPIC = "anthropic-ratelimit-requests-remaining"


class TestRateLimits:
    @BOTH_WAYS
    def test_openai_counts_down_in_headers_and_then_refuses(self, stream: bool, http: httpx.Client) -> None:
        answers = [http.post("/v1/chat/completions", json=chat("m-tok1-rl2", stream)) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers[OPENAI] for answer in answers] == ["1", "0", "0"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
        for answer in answers:
            reset = answer.headers["x-ratelimit-reset-requests"]
            assert reset.endswith("s")
            assert 0 < float(reset[:-1]) <= 2
        assert "retry-after" not in answers[2].headers

    def test_anthropic_tells_when_the_limit_is_reset(self, claude: anthropic.Anthropic) -> None:
        first = claude.messages.with_raw_response.create(model="m-tok1-rl1", max_tokens=9, messages=USER)
        assert first.headers[ANTHROPIC] == "0"
        reset_at = datetime.fromisoformat(first.headers["anthropic-ratelimit-requests-reset"])
        assert 0 < reset_at.timestamp() - time.time() <= 2
        with pytest.raises(anthropic.RateLimitError) as refused:
            claude.messages.create(model="m-tok1-rl1", max_tokens=9, messages=USER)
        assert refused.value.response.headers[ANTHROPIC] == "0"

    @pytest.mark.parametrize("dialect", ["gemini", "ollama"])
    def test_vendors_without_such_headers_say_when_to_come_back(self, dialect: str, http: httpx.Client) -> None:
        path, body = request_of(dialect, "m-tok1-rl1", stream=False)
        answers = [http.post(path, json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert 1 <= int(answers[1].headers["retry-after"]) <= 2
        assert not [name for answer in answers for name in answer.headers if "ratelimit" in name]

    def test_the_limit_is_refilled_after_its_window(self, http: httpx.Client) -> None:
        def status() -> int:
            return http.post("/v1/chat/completions", json=chat("m-tok1-rl1")).status_code

        assert [status(), status()] == [200, 429]
        time.sleep(2.05)
        assert status() == 200

    def test_each_key_has_its_own(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        for client in (oai, oai.with_options(api_key="sk-other")):
            client.chat.completions.create(model="m-tok1-rl1", messages=USER)
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model="m-tok1-rl1", messages=USER)
        assert [call.status for call in vendor.log] == [200, 429, 200, 429]

    def test_a_429_can_tell_by_those_headers_alone(self, http: httpx.Client) -> None:
        refused = http.post("/v1/chat/completions", json=chat("m-429reset"))
        assert (refused.status_code, refused.headers[OPENAI]) == (429, "0")
        assert refused.headers["x-ratelimit-reset-requests"] == "2.000s"
        assert "retry-after" not in refused.headers
        path, body = request_of("anthropic", "m-429reset", stream=True)
        assert http.post(path, json=body).headers[ANTHROPIC] == "0"

    def test_whatever_is_no_conversation_is_limited_alike(self, http: httpx.Client) -> None:
        body = {"model": "m-rl1", "input": "one"}
        assert [http.post("/v1/embeddings", json=body).status_code for _ in range(2)] == [200, 429]


class TestOutages:
    @DIALECTS
    def test_a_model_is_down_for_a_while_and_then_healthy(self, dialect: str, http: httpx.Client) -> None:
        path, body = request_of(dialect, "m-tok1-down300ms", stream=False)
        statuses = [http.post(path, json=body).status_code for _ in range(2)]
        time.sleep(0.35)
        statuses += [http.post(path, json=body).status_code for _ in range(2)]
        assert statuses == [503, 503, 200, 200]

    def test_a_reset_begins_the_outage_anew(self, http: httpx.Client, vendor: VendorServer) -> None:
        def status() -> int:
            return http.post("/v1/chat/completions", json=chat("m-tok1-down200ms")).status_code

        assert status() == 503
        time.sleep(0.25)
        assert status() == 200
        vendor.reset()
        assert status() == 503
