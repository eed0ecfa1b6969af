"""Faults and the log of the scripted vendors: what is broken is broken exactly, what is metered is the truth."""

import json
import re
import time
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer, count_tokens, instance_of
from gateway.conformance.vendors.behaviours import GIANT_BYTES, parse_behaviour
from tests.gateway.conformance.sample_requests import BOTH_WAYS, DIALECTS, USER, chat, events_of, request_of


def read_until_broken(client: httpx.Client, path: str, body: dict[str, Any], timeout_s: float = 5) -> tuple[str, Any]:
    """What arrived of a stream, and the error that ended it (None: it ended well)."""
    received = b""
    with client.stream("POST", path, json=body, timeout=timeout_s) as response:
        try:
            for piece in response.iter_raw():
                received += piece
        except httpx.TransportError as error:
            return received.decode(), error
    return received.decode(), None


class TestFaults:
    @DIALECTS
    @BOTH_WAYS
    def test_reset_comes_before_the_headers(self, dialect: str, stream: bool, http: httpx.Client) -> None:
        path, body = request_of(dialect, "m-reset", stream)
        with pytest.raises(httpx.ReadError):
            http.post(path, json=body)

    @DIALECTS
    def test_cut_by_fin_delivers_exactly_its_tokens(
        self, dialect: str, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, "m-cut40fin", stream=True)
        received, error = read_until_broken(http, path, body)
        assert isinstance(error, httpx.RemoteProtocolError)
        assert "tok40" in received
        assert "tok41" not in received
        call = vendor.log[-1]
        assert (call.outcome, call.sent_tokens, call.generated_tokens) == ("cut", 40, 40)
        assert (call.metered.input, call.metered.output, call.metered.usage_sent) == (4, 40, False)

    def test_cut_by_rst_is_a_reset_after_the_tokens(self, http: httpx.Client, vendor: VendorServer) -> None:
        received, error = read_until_broken(http, "/v1/chat/completions", chat("m-cut40rst", True))
        assert isinstance(error, httpx.ReadError)
        assert "Connection reset" in str(error)
        assert "tok40" in received
        assert "tok41" not in received
        assert vendor.log[-1].outcome == "cut"

    @pytest.mark.parametrize("kind", ["fin", "rst"])
    def test_a_whole_answer_is_cut_in_its_middle(self, kind: str, http: httpx.Client, vendor: VendorServer) -> None:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            http.post("/v1/chat/completions", json=chat(f"m-cut40{kind}"))
        assert vendor.log[-1].outcome == "cut"

    @DIALECTS
    @pytest.mark.parametrize("word", ["silent", "headers-silent", "stall20"])
    def test_silence_lasts_until_the_client_leaves(
        self, dialect: str, word: str, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, f"m-{word}", stream=True)
        with pytest.raises(httpx.ReadTimeout), http.stream("POST", path, json=body, timeout=0.2) as response:
            response.read()
        call = vendor.wait_for(lambda calls: calls[-1].outcome == "gone")[-1]
        assert call.client_gone_at == (20 if word == "stall20" else 0)
        assert call.status == (None if word == "silent" else 200)

    @DIALECTS
    def test_the_tenth_event_is_broken_and_the_rest_is_sound(self, dialect: str, http: httpx.Client) -> None:
        path, body = request_of(dialect, "m-badevent10", stream=True)
        lines = [line for line in http.post(path, json=body).text.splitlines() if line.startswith(("data: {", "{"))]
        broken = [number for number, line in enumerate(lines, 1) if '"broken"' in line]
        assert broken == [10]
        with pytest.raises(json.JSONDecodeError):
            events_of(lines[9])
        sound = events_of("\n".join(lines[:9] + lines[10:]))
        assert "tok60" in json.dumps(sound)

    @DIALECTS
    @BOTH_WAYS
    def test_an_error_inside_a_200(self, dialect: str, stream: bool, http: httpx.Client, vendor: VendorServer) -> None:
        path, body = request_of(dialect, "m-errevent5", stream)
        response = http.post(path, json=body)
        assert response.status_code == 200
        failed = events_of(response.text)[-1]
        assert failed.get("response", failed)["error"]
        assert vendor.log[-1].outcome == "failed"
        assert vendor.log[-1].sent_tokens == (5 if stream else 0)

    @pytest.mark.parametrize(("dialect", "marker"), [("openai", "[DONE]"), ("anthropic", "message_stop")])
    def test_the_end_marker_is_missing_and_the_connection_stays(
        self, dialect: str, marker: str, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, "m-nodone", stream=True)
        received, error = read_until_broken(http, path, body, timeout_s=0.3)
        assert isinstance(error, httpx.ReadTimeout)
        assert "tok8" in received
        assert marker not in received
        assert vendor.wait_for(lambda calls: calls[-1].outcome == "gone")[-1].client_gone_at == 8

    @DIALECTS
    @BOTH_WAYS
    def test_usage_can_be_missing(self, dialect: str, stream: bool, http: httpx.Client, vendor: VendorServer) -> None:
        path, body = request_of(dialect, "m-nousage", stream)
        text = http.post(path, json=body).text
        assert "tok8" in text
        assert all(word not in text for word in ('"usage":{', "usageMetadata", "eval_count"))
        assert not vendor.log[-1].metered.usage_sent

    def test_usage_can_run_along(self, http: httpx.Client) -> None:
        path, body = request_of("openai", "m-tok3-usageall", stream=True)
        counts = [event["usage"]["completion_tokens"] for event in events_of(http.post(path, json=body).text)]
        assert counts == [0, 1, 2, 3, 3]

    @DIALECTS
    @BOTH_WAYS
    @pytest.mark.parametrize(("word", "wrong"), [("usagewrong", "-18"), ("usagewrongtext", '"about 8"')])
    def test_usage_can_be_wrong(  # noqa: PLR0917 - a matrix and its fixtures
        self, dialect: str, stream: bool, word: str, wrong: str, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, f"m-tok8-{word}", stream)
        response = http.post(path, json=body)
        counts = re.findall(r'"(?:\w+_tokens|\w+TokenCount|\w*eval_count)":([^,}]+)', response.text)
        assert wrong in counts
        assert not [count for count in counts if count.isdecimal()]
        assert len(events_of(response.text)) >= 1
        metered = vendor.log[-1].metered
        assert (metered.input, metered.output, metered.usage_sent) == (4, 8, False)

    @DIALECTS
    def test_pings_come_before_the_first_token_only(self, dialect: str, http: httpx.Client) -> None:
        path, body = request_of(dialect, "m-tok2-slowfirst700ms-pings", stream=True)
        arrived: list[tuple[float, bytes]] = []
        started = time.monotonic()
        with http.stream("POST", path, json=body) as response:
            for piece in response.iter_raw():
                arrived.append((time.monotonic() - started, piece))
        before = [piece for at, piece in arrived if 0.15 < at < 0.65]
        assert len(before) == 3
        assert not any(b"tok1" in piece for piece in before)
        assert arrived[0][0] < 0.65 <= next(at for at, piece in arrived if b"tok1" in piece)
        events_of(b"".join(piece for _, piece in arrived).decode())

    def test_sdks_read_over_pings(self, oai: openai.OpenAI, claude: anthropic.Anthropic) -> None:
        model = "m-tok2-slowfirst500ms-pings"
        chunks = list(oai.chat.completions.create(**chat(model, True)))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "tok1 tok2"
        with claude.messages.stream(model=model, max_tokens=9, messages=USER) as stream:
            assert stream.get_final_text() == "tok1 tok2"
        with oai.responses.stream(model=model, input="one") as events:
            assert events.get_final_response().output_text == "tok1 tok2"

    @BOTH_WAYS
    def test_long_tokens_and_varying_texts(self, stream: bool, http: httpx.Client, vendor: VendorServer) -> None:
        def get(model: str) -> str:
            path, body = request_of("ollama", model, stream)
            return "".join(event["message"]["content"] for event in events_of(http.post(path, json=body).text))

        long = get("m-toklong3")
        assert [len(word) for word in long.split()] == [1000] * 3
        assert vendor.log[-1].metered.output == 3
        first, second = get("m-tok3-vary2").split(), get("m-tok3-vary2").split()
        assert first[0] == second[0] == "tok1"
        assert first[1:] != second[1:]
        assert [word.partition("~")[0] for word in second] == ["tok1", "tok2", "tok3"]

    @DIALECTS
    def test_wrong_type_empty_and_giant(self, dialect: str, http: httpx.Client) -> None:
        def get(model: str) -> httpx.Response:
            path, body = request_of(dialect, model, stream=True)
            return http.post(path, json=body)

        wrong = get("m-wrongtype")
        assert wrong.status_code == 200
        assert wrong.headers["content-type"] == "text/html"
        assert get("m-empty").content == b""
        giant = get("m-giant").content
        assert max(len(line) for line in giant.split(b"\n")) > GIANT_BYTES

    def test_drips_byte_by_byte(self, http: httpx.Client) -> None:
        with http.stream("POST", "/v1/chat/completions", json=chat("m-tok1-drip1", True)) as response:
            pieces = list(response.iter_raw())
        assert len(pieces) > 100
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")

    @BOTH_WAYS
    def test_pace_is_kept(self, stream: bool, http: httpx.Client) -> None:
        started = time.monotonic()
        http.post("/v1/chat/completions", json=chat("m-tok5-gap20-slowfirst100ms", stream))
        assert 0.2 <= time.monotonic() - started < 2


class TestLog:
    @DIALECTS
    @BOTH_WAYS
    def test_meters_what_was_generated(
        self, dialect: str, stream: bool, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, "m-tok8-think3-cached25", stream)
        http.post(path, json=body)
        call = vendor.log[-1]
        assert (call.format, call.stream, call.outcome) == (dialect, stream, "answered")
        assert call.generated_tokens == call.sent_tokens == 11
        metered = call.metered
        if dialect == "ollama":
            assert (metered.input, metered.cached_input, metered.output, metered.reasoning) == (4, 0, 11, 0)
        else:
            assert (metered.input, metered.cached_input, metered.output, metered.reasoning) == (3, 1, 8, 3)
        assert metered.usage_sent

    @DIALECTS
    def test_notices_a_client_that_leaves_mid_stream(
        self, dialect: str, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, "m-tok500-gap10", stream=True)
        with http.stream("POST", path, json=body) as response:
            for text in response.iter_text():
                if ' tok6"' in text:
                    break
        left_at = time.time()
        call = vendor.wait_for(lambda calls: calls[-1].outcome == "gone")[-1]
        assert call.ended_at - left_at < 0.2  # a few milliseconds on an idle machine
        assert 5 <= call.client_gone_at <= 100
        assert call.metered.output == call.generated_tokens
        assert call.sent_tokens <= call.generated_tokens <= call.sent_tokens + 1

    def test_a_whole_answer_stops_being_generated_when_nobody_waits(
        self, http: httpx.Client, vendor: VendorServer
    ) -> None:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=chat("m-tok500-gap10"), timeout=0.2)
        call = vendor.wait_for(lambda calls: calls[-1].outcome == "gone")[-1]
        assert 0 < call.generated_tokens < 100
        assert call.client_gone_at == 0

    def test_keeps_connections_alive_between_requests(self) -> None:
        with VendorServer() as server, httpx.Client(base_url=server.url) as client:
            for _ in range(3):
                client.post("/api/chat", json=chat("m-tok1"))
            assert server.open_connections == 1

    def test_a_process_of_its_own_serves_alike(self) -> None:
        with VendorServer(keys=["sk-lab"], models=["only-tok1"], process=True) as server:
            assert server.pid
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-lab", max_retries=0)
            assert [model.id for model in client.models.list()] == ["only-tok1"]
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="sk-other").chat.completions.create(model="m", messages=USER)
            server.script("m", ["500"])
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="m", messages=USER)
            assert [call.status for call in server.log] == [200, 401, 500]


class TestWords:
    def test_ordinary_names_have_no_behaviour(self) -> None:
        plain = parse_behaviour("m")
        for name in ("gpt-4o-2024-08-06", "claude-sonnet-4-5", "llama-3.1-8b-instant", "models/gemini-2.5-flash"):
            assert parse_behaviour(name) == plain

    def test_tokens_are_words_of_text(self) -> None:
        assert count_tokens(["one  two\nthree", "", " four "]) == 4

    def test_an_instance_has_what_is_required(self) -> None:
        schema = {
            "type": "object",
            "properties": {
                "n": {"type": "integer", "minimum": 7},
                "deep": {"anyOf": [{"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}]},
                "maybe": {"type": ["null", "string"]},
                "left_out": {"type": "string"},
            },
            "required": ["n", "deep", "maybe"],
        }
        assert instance_of(schema, schema) == {"n": 7, "deep": {"b": True}, "maybe": None}
