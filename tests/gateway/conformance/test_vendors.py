"""The formats of the scripted vendors, as the official SDKs and a bare client see them."""

import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer, signature_of
from tests.gateway.conformance.sample_requests import (
    ANTHROPIC_TOOLS,
    DIALECTS,
    GEMINI_TOOLS,
    PIXEL,
    TEXT8,
    TOOLS,
    USER,
    WEATHER,
    chat,
    events_of,
    request_of,
)


class TestOpenAI:
    def test_sdk_reads_a_whole_answer_with_usage(self, oai: openai.OpenAI) -> None:
        answer = oai.chat.completions.create(model="m-tok8-cached25-think12", messages=USER)
        assert answer.choices[0].message.content == TEXT8
        assert answer.choices[0].message.reasoning_content.startswith("think1 think2")
        assert answer.choices[0].finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 20, 24)
        assert answer.usage.prompt_tokens_details.cached_tokens == 1
        assert answer.usage.completion_tokens_details.reasoning_tokens == 12

    def test_sdk_reads_a_stream_with_usage_in_the_last_chunk(self, oai: openai.OpenAI) -> None:
        chunks = list(oai.chat.completions.create(**chat("m-tok8", True, stream_options={"include_usage": True})))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT8
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 8

    def test_no_usage_is_streamed_unless_asked_for(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        assert all(c.usage is None for c in oai.chat.completions.create(**chat("m-tok8", True)))
        call = vendor.log[-1]
        assert not call.metered.usage_sent
        assert call.metered.output == 8

    def test_parallel_calls_are_interleaved_in_odd_pieces(self, oai: openai.OpenAI) -> None:
        with oai.chat.completions.stream(model="m-tools2", messages=USER, tools=TOOLS) as stream:
            indexes = [e.chunk.choices[0].delta.tool_calls for e in stream if e.type == "chunk" and e.chunk.choices]
            order = [calls[0].index for calls in indexes if calls]
            calls = stream.get_final_completion().choices[0].message.tool_calls
        assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [
            ("weather", {"city": "Paris"}),
            ("population", {"city": "Rome"}),
        ]
        assert order[:6] == [0, 1, 0, 1, 0, 1]

    def test_a_tool_loop_ends_in_text(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        first = oai.chat.completions.create(model="m-tool", messages=USER, tools=TOOLS).choices[0]
        assert first.finish_reason == "tool_calls"
        call = first.message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        messages = [*USER, first.message.model_dump(exclude_none=True), result]
        second = oai.chat.completions.create(model="m-tool", messages=messages, tools=TOOLS).choices[0]
        assert second.message.content == TEXT8
        assert vendor.log[-1].metered.input == 6

    def test_structured_output_fits_the_schema(self, oai: openai.OpenAI) -> None:
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}},
            "required": ["name", "tags"],
            "additionalProperties": False,
            "$defs": {"tag": {"enum": ["a", "b"]}},
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
        answer = oai.chat.completions.create(model="m-json", messages=USER, response_format=wanted)
        assert json.loads(answer.choices[0].message.content) == {"name": "tok1", "tags": ["a"]}

    def test_several_choices_and_logprobs(self, oai: openai.OpenAI) -> None:
        answer = oai.chat.completions.create(model="m-tok3", messages=USER, n=2, logprobs=True)
        assert [c.message.content for c in answer.choices] == ["tok1 tok2 tok3"] * 2
        assert len(answer.choices[0].logprobs.content) == 3
        assert answer.usage.completion_tokens == 6

    def test_refusal_filter_length_and_stop(self, oai: openai.OpenAI) -> None:
        refused = oai.chat.completions.create(model="m-refuse", messages=USER).choices[0]
        assert refused.message.refusal == "I cannot help with that."
        assert refused.message.content is None
        filtered = oai.chat.completions.create(model="m-filter", messages=USER).choices[0]
        assert filtered.finish_reason == "content_filter"
        cut = oai.chat.completions.create(model="m-length", messages=USER, max_tokens=3).choices[0]
        assert (cut.finish_reason, cut.message.content) == ("length", "tok1 tok2 tok3")
        stopped = oai.chat.completions.create(model="m-stop", messages=USER, stop=["k3"]).choices[0]
        assert (stopped.finish_reason, stopped.message.content) == ("stop", "tok1 tok2 to")

    def test_echo_reports_the_media_it_saw(self, oai: openai.OpenAI) -> None:
        parts = [
            {"type": "text", "text": "look  here"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "image_url", "image_url": {"url": "https://example.invalid/a.jpg"}},
        ]
        answer = oai.chat.completions.create(model="m-echo", messages=[{"role": "user", "content": parts}])
        assert answer.choices[0].message.content == "look  here [image/png url:https://example.invalid/a.jpg]"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"messages": []},
            {"messages": [{"role": "robot", "content": "x"}]},
            {"messages": [{"role": "user", "content": None}]},
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            {"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "x"}]},
            {"temperature": 3},
            {"tools": [{"name": "weather", "input_schema": {}}]},
            {"tool_choice": "auto"},
            {"max_tokens": 5, "max_completion_tokens": 5},
            {"stream_options": {"include_usage": True}},
            {"x-cache": True},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            {"tools": ["weather"]},
        ],
    )
    def test_refuses_what_the_original_refuses(self, wrong: dict[str, Any], http: httpx.Client) -> None:
        response = http.post("/v1/chat/completions", json={**chat("m-tok8"), **wrong})
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    def test_lets_unknown_fields_through(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        oai.chat.completions.create(model="m-tok1", messages=USER, extra_body={"top_k": 4, "provider_thing": {"a": 1}})
        assert vendor.log[-1].body["provider_thing"] == {"a": 1}

    def test_errors_reach_the_sdk_as_its_own_exceptions(self, oai: openai.OpenAI) -> None:
        expected = {
            "m-401": openai.AuthenticationError,
            "m-404": openai.NotFoundError,
            "m-429": openai.RateLimitError,
            "m-500": openai.InternalServerError,
            "m-ctx": openai.BadRequestError,
        }
        for model, error in expected.items():
            with pytest.raises(error):
                oai.chat.completions.create(model=model, messages=USER)
        with pytest.raises(openai.APIError, match="error while processing"):
            list(oai.chat.completions.create(**chat("m-errevent5", True)))

    def test_lists_models(self, oai: openai.OpenAI) -> None:
        assert "small-tok8" in [model.id for model in oai.models.list()]
        assert oai.models.retrieve("small-tok8").id == "small-tok8"


class TestAnthropic:
    def test_sdk_reads_a_whole_answer_with_disjoint_usage(self, claude: anthropic.Anthropic) -> None:
        answer = claude.messages.create(
            model="m-tok8-cached25-cachewrite50-think12", max_tokens=99, system="be brief please now", messages=USER
        )
        thinking, text = answer.content
        assert text.text == TEXT8
        assert thinking.signature == signature_of(thinking.thinking)
        assert answer.stop_reason == "end_turn"
        usage = answer.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (2, 2, 4)
        assert usage.output_tokens == 20
        assert usage.output_tokens_details.thinking_tokens == 12

    def test_sdk_accumulates_a_stream(self, claude: anthropic.Anthropic) -> None:
        wanted = {"model": "m-tools2-think3-tok2", "max_tokens": 99, "messages": USER, "tools": ANTHROPIC_TOOLS}
        with claude.messages.stream(**wanted) as stream:
            answer = stream.get_final_message()
        assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert answer.content[0].signature == signature_of("think1 think2 think3")
        assert [block.input for block in answer.content[2:]] == [{"city": "Paris"}, {"city": "Rome"}]
        assert answer.stop_reason == "tool_use"
        assert answer.usage.input_tokens == 4

    def test_tool_results_and_thinking_come_back(self, claude: anthropic.Anthropic) -> None:
        wanted = {"model": "m-tool-think2", "max_tokens": 99, "tools": ANTHROPIC_TOOLS}
        first = claude.messages.create(**wanted, messages=USER)
        blocks = [block.model_dump(exclude_none=True) for block in first.content]
        result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": "21 degrees"}
        turns = [*USER, {"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
        assert claude.messages.create(**wanted, messages=turns).content[-1].text == TEXT8
        blocks[0]["signature"] = "forged"
        with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
            claude.messages.create(**wanted, messages=turns)

    def test_stop_sequence_length_and_refusal(self, claude: anthropic.Anthropic) -> None:
        stopped = claude.messages.create(model="m-stop", max_tokens=99, messages=USER, stop_sequences=[" tok3"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " tok3")
        assert stopped.content[0].text == "tok1 tok2"
        assert claude.messages.create(model="m-tok8", max_tokens=3, messages=USER).stop_reason == "max_tokens"
        assert claude.messages.create(model="m-refuse", max_tokens=99, messages=USER).stop_reason == "refusal"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_tokens": None},
            {"messages": [*USER, *USER]},
            {"messages": [{"role": "assistant", "content": "x"}]},
            {"messages": [{"role": "system", "content": "x"}, *USER]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": ""}]}]},
            {"tools": TOOLS},
            {"stop": ["x"]},
            {"temperature": 1.5},
            {"thinking": {"type": "enabled", "budget_tokens": 10}},
        ],
    )
    def test_refuses_what_the_original_refuses(self, wrong: dict[str, Any], http: httpx.Client) -> None:
        response = http.post("/v1/messages", json={**chat("m-tok8", max_tokens=64), **wrong})
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"

    def test_errors_reach_the_sdk_as_its_own_exceptions(self, claude: anthropic.Anthropic) -> None:
        expected = {
            "m-401": anthropic.AuthenticationError,
            "m-429s2": anthropic.RateLimitError,
            "m-529": anthropic.InternalServerError,
            "m-ctx": anthropic.BadRequestError,
        }
        for model, error in expected.items():
            with pytest.raises(error):
                claude.messages.create(model=model, max_tokens=9, messages=USER)
        with (
            pytest.raises(anthropic.APIStatusError, match="Overloaded"),
            claude.messages.stream(model="m-errevent5", max_tokens=99, messages=USER) as stream,
        ):
            stream.until_done()

    def test_lists_models_by_the_version_header(self, claude: anthropic.Anthropic) -> None:
        assert "small-tok8" in [model.id for model in claude.models.list()]


class TestGemini:
    def test_whole_and_streamed_agree(self, http: httpx.Client) -> None:
        path, body = request_of("gemini", "m-tok8-think2-cached25", stream=False)
        whole = http.post(path, json=body).json()
        thought, text = whole["candidates"][0]["content"]["parts"]
        assert thought == {"text": "think1 think2", "thought": True}
        assert text == {"text": TEXT8}
        path, body = request_of("gemini", "m-tok8-think2-cached25", stream=True)
        events = events_of(http.post(path, json=body).text)
        parts = [event["candidates"][0]["content"]["parts"][0] for event in events]
        assert "".join(part["text"] for part in parts if "thought" not in part) == TEXT8
        assert events[-1]["candidates"][0]["finishReason"] == "STOP"
        assert events[-1]["usageMetadata"] == whole["usageMetadata"]
        assert whole["usageMetadata"] == {
            "promptTokenCount": 4,
            "candidatesTokenCount": 8,
            "thoughtsTokenCount": 2,
            "cachedContentTokenCount": 1,
            "totalTokenCount": 14,
        }

    def test_calls_functions_and_takes_their_results(self, http: httpx.Client) -> None:
        path, body = request_of("gemini", "m-tools2", stream=False)
        body["tools"] = GEMINI_TOOLS
        content = http.post(path, json=body).json()["candidates"][0]["content"]
        assert [part["functionCall"]["args"] for part in content["parts"]] == [{"city": "Paris"}, {"city": "Rome"}]
        result = {"functionResponse": {"name": "weather", "response": {"result": "21 degrees"}}}
        body["contents"] += [content, {"role": "user", "parts": [result]}]
        assert http.post(path, json=body).status_code == 400
        body["contents"][-1]["parts"] = [result, result]
        assert http.post(path, json=body).json()["usageMetadata"]["promptTokenCount"] == 8

    def test_a_refused_prompt_has_no_candidates(self, http: httpx.Client, vendor: VendorServer) -> None:
        path, body = request_of("gemini", "m-refuse", stream=False)
        answer = http.post(path, json=body).json()
        assert answer["promptFeedback"] == {"blockReason": "SAFETY"}
        assert "candidates" not in answer
        assert vendor.log[-1].metered.output == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"contents": []},
            {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]},
            {"contents": [{"role": "user", "parts": [{"type": "text", "text": "x"}]}]},
            {"max_tokens": 5},
            {"generationConfig": {"max_output_tokens": 5}},
            {"systemInstruction": "be brief"},
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"additionalProperties": False}}]}]},
            {"generationConfig": {"responseSchema": {"type": "object"}}},
        ],
    )
    def test_refuses_what_the_original_refuses(self, wrong: dict[str, Any], http: httpx.Client) -> None:
        path, body = request_of("gemini", "m-tok8", stream=False)
        response = http.post(path, json={**body, **wrong})
        assert response.status_code == 400
        assert response.json()["error"]["status"] == "INVALID_ARGUMENT"

    def test_a_wrong_key_is_a_400_and_a_missing_one_a_403(self, vendor: VendorServer) -> None:
        vendor.accept_keys(["right"])
        path, body = request_of("gemini", "m-tok8", stream=False)
        assert httpx.post(vendor.url + path, json=body).status_code == 403
        wrong = httpx.post(vendor.url + path, json=body, headers={"x-goog-api-key": "wrong"})
        assert wrong.status_code == 400
        assert wrong.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"

    def test_rate_limits_tell_the_delay_in_the_body_too(self, http: httpx.Client) -> None:
        path, body = request_of("gemini", "m-429s2", stream=True)
        response = http.post(path, json=body)
        assert response.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
        assert response.json()["error"]["details"][0]["retryDelay"] == "2s"

    def test_lists_models(self, http: httpx.Client) -> None:
        assert http.get("/v1beta/models").json()["models"][0]["name"] == "models/small-tok8"


class TestOllama:
    def test_streams_unless_told_not_to(self, http: httpx.Client) -> None:
        response = http.post("/api/chat", json={"model": "m-tok8-think2", "messages": USER})
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = events_of(response.text)
        assert "".join(line["message"]["content"] for line in lines) == TEXT8
        assert "".join(line["message"].get("thinking", "") for line in lines) == "think1 think2"
        assert [line["done"] for line in lines] == [False] * 10 + [True]
        assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (4, 10)

    def test_calls_tools_with_objects_as_arguments(self, http: httpx.Client) -> None:
        answer = http.post("/api/chat", json=chat("m-tool", tools=TOOLS)).json()
        assert answer["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
        call = {"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
        messages = [*USER, {"role": "assistant", "tool_calls": [call]}]
        refused = http.post("/api/chat", json=chat("m-tool", messages=messages))
        assert refused.status_code == 400
        assert "cannot unmarshal string" in refused.json()["error"]

    def test_format_images_and_options(self, http: httpx.Client) -> None:
        answer = http.post("/api/chat", json=chat("m-json", format=WEATHER)).json()
        assert json.loads(answer["message"]["content"]) == {"city": "tok1"}
        looked = [{"role": "user", "content": "look", "images": [PIXEL]}]
        assert (
            http.post("/api/chat", json=chat("m-echo", messages=looked)).json()["message"]["content"] == "look [image]"
        )
        short = http.post("/api/chat", json=chat("m-tok8", options={"num_predict": 2})).json()
        assert (short["message"]["content"], short["done_reason"]) == ("tok1 tok2", "length")
        listed = http.post("/api/chat", json=chat("m", messages=[{"role": "user", "content": [{"type": "text"}]}]))
        assert listed.status_code == 400

    def test_lists_models(self, http: httpx.Client) -> None:
        assert http.get("/api/tags").json()["models"][0]["name"] == "small-tok8"


class TestKeysAndRefusals:
    @pytest.mark.parametrize(("dialect", "header"), [("openai", "authorization"), ("anthropic", "x-api-key")])
    def test_a_missing_or_wrong_key_is_a_401(self, dialect: str, header: str, vendor: VendorServer) -> None:
        vendor.accept_keys(["right"])
        path, body = request_of(dialect, "m-tok8", stream=False)
        version = {"anthropic-version": "2023-06-01"}
        prefix = "Bearer " if header == "authorization" else ""
        for key, status in [(None, 401), ("wrong", 401), ("right", 200)]:
            headers = version | ({header: prefix + key} if key else {})
            assert httpx.post(vendor.url + path, json=body, headers=headers).status_code == status
        assert [call.key for call in vendor.log] == [None, "wrong", "right"]

    @DIALECTS
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 529])
    def test_refuses_with_any_status_and_meters_nothing(
        self, dialect: str, status: int, http: httpx.Client, vendor: VendorServer
    ) -> None:
        path, body = request_of(dialect, f"m-{status}", stream=True)
        response = http.post(path, json=body)
        assert response.status_code == status
        assert response.json()["error"]
        call = vendor.log[-1]
        assert (call.status, call.outcome, call.metered.prompt, call.metered.completion) == (status, "refused", 0, 0)

    def test_retry_after_comes_in_three_variants(self, http: httpx.Client) -> None:
        def retry_after(model: str) -> str | None:
            return http.post("/v1/chat/completions", json=chat(model)).headers.get("retry-after")

        assert retry_after("m-429s2") == "2"
        assert retry_after("m-429none") is None
        ahead = parsedate_to_datetime(retry_after("m-429date")).timestamp() - time.time()
        assert 0 < ahead <= 2

    def test_once_words_apply_to_the_first_call_only(self, http: httpx.Client, vendor: VendorServer) -> None:
        def statuses() -> list[int]:
            return [http.post("/v1/chat/completions", json=chat("m-500once")).status_code for _ in range(2)]

        assert statuses() == [500, 200]
        vendor.reset()
        assert statuses() == [500, 200]

    def test_scripts_are_used_up_in_order(self, http: httpx.Client, vendor: VendorServer) -> None:
        vendor.script("m-tok2", ["503", "429s7", "tok3", "ok"])
        answers = [http.post("/v1/chat/completions", json=chat("m-tok2")) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [503, 429, 200, 200, 200]
        assert [a.json()["usage"]["completion_tokens"] for a in answers[2:]] == [3, 2, 2]
        with pytest.raises(ValueError, match="unknown behaviour"):
            vendor.script("m", ["nonsense"])

    @DIALECTS
    def test_a_context_overflow_has_the_vendors_wording(self, dialect: str, http: httpx.Client) -> None:
        path, body = request_of(dialect, "m-ctx", stream=False)
        response = http.post(path, json=body)
        assert response.status_code == 400
        assert any(words in response.text for words in ("context length", "context window", "maximum"))

    def test_an_unknown_path_is_logged_and_404(self, http: httpx.Client, vendor: VendorServer) -> None:
        assert http.post("/v1/v1/chat/completions", json={}).status_code == 404
        assert vendor.log[-1].path == "/v1/v1/chat/completions"
