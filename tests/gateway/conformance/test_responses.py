"""OpenAI's Responses of the scripted vendors, as the official SDK and a bare client see them."""

import json
from typing import Any

import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests.gateway.conformance.sample_requests import PIXEL, TEXT8, USER, WEATHER, events_of

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": name, "parameters": WEATHER, "strict": False} for name in ("weather", "population")
]
CLOSED = {**WEATHER, "additionalProperties": False}
SEALED = ["reasoning.encrypted_content"]


def ask(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "input": "one two three four", **fields}


def dumped(response: Any) -> list[dict[str, Any]]:
    """The items of a response as a caller sends them back."""
    return [item.model_dump(exclude_none=True) for item in response.output]


class TestAnswers:
    def test_sdk_reads_a_whole_answer_with_usage(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        answer = oai.responses.create(**ask("m-tok8-cached25-think12"))
        reasoning, message = answer.output
        assert answer.output_text == TEXT8
        assert reasoning.summary[0].text.startswith("think1 think2")
        assert (message.status, answer.status) == ("completed", "completed")
        usage = answer.usage
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (4, 20, 24)
        assert usage.input_tokens_details.cached_tokens == 1
        assert usage.output_tokens_details.reasoning_tokens == 12
        call = vendor.log[-1]
        assert (call.format, call.metered.usage_sent) == ("openai-responses", True)

    def test_events_come_in_the_originals_order_and_are_numbered(self, oai: openai.OpenAI) -> None:
        with oai.responses.create(**ask("m-tok2-think1-tools2", tools=TOOLS, stream=True)) as stream:
            events = list(stream)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type.removeprefix("response.") for event in events if "arguments.delta" not in event.type]
        assert kinds == [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "output_item.added",
            "function_call_arguments.done",
            "output_item.done",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        done = [event.item for event in events if event.type == "response.output_item.done"]
        assert done == events[-1].response.output
        turns = [event.output_index for event in events if event.type.endswith("arguments.delta")]
        assert turns[:6] == [2, 3, 2, 3, 2, 3]

    @pytest.mark.parametrize("words", ["tok8", "tok8-think3", "tools2", "refuse", "filter", "length-tok5", "json"])
    def test_sdk_accumulates_a_stream_to_the_whole_answer(self, oai: openai.OpenAI, words: str) -> None:
        def said(response: Any) -> list[Any]:
            return [
                {key: value for key, value in item.items() if key not in ("id", "call_id", "parsed_arguments")}
                for item in dumped(response)
            ]

        whole = oai.responses.create(**ask(f"m-{words}", tools=TOOLS))
        with oai.responses.stream(**ask(f"m-{words}", tools=TOOLS)) as stream:
            streamed = stream.get_final_response() if words not in ("filter", "length-tok5") else None
        if streamed is None:  # the SDK's accumulation knows no incomplete end
            with oai.responses.create(**ask(f"m-{words}", tools=TOOLS, stream=True)) as events:
                streamed = list(events)[-1].response
        assert said(whole) == said(streamed)
        assert whole.usage == streamed.usage
        assert (whole.status, whole.incomplete_details) == (streamed.status, streamed.incomplete_details)

    def test_incomplete_answers_say_why(self, oai: openai.OpenAI) -> None:
        short = oai.responses.create(**ask("m-tok30", max_output_tokens=16))
        assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert short.output[0].status == "incomplete"
        assert short.usage.output_tokens == 16
        filtered = oai.responses.create(**ask("m-filter"))
        assert filtered.incomplete_details.reason == "content_filter"
        refused = oai.responses.create(**ask("m-refuse"))
        assert refused.output[0].content[0].refusal == "I cannot help with that."
        assert refused.status == "completed"

    def test_structured_output_fits_the_schema(self, oai: openai.OpenAI) -> None:
        wanted = {"format": {"type": "json_schema", "name": "place", "schema": CLOSED, "strict": True}}
        assert json.loads(oai.responses.create(**ask("m-json", text=wanted)).output_text) == {"city": "tok1"}

    def test_settings_are_repeated(self, oai: openai.OpenAI) -> None:
        given = {"instructions": "be brief", "temperature": 0.5, "metadata": {"a": "b"}, "store": False, "tools": TOOLS}
        answer = oai.responses.create(**ask("m-tok1", **given))
        assert (answer.instructions, answer.temperature, answer.metadata) == ("be brief", 0.5, {"a": "b"})
        assert [tool.name for tool in answer.tools] == ["weather", "population"]
        assert answer.store is False
        assert answer.usage.input_tokens == 6

    def test_logprobs_come_when_included(self, oai: openai.OpenAI) -> None:
        answer = oai.responses.create(**ask("m-tok2", include=["message.output_text.logprobs"]))
        assert [probable.token for probable in answer.output[0].content[0].logprobs] == ["tok1", " tok2"]

    def test_echo_reports_the_media_it_saw(self, oai: openai.OpenAI) -> None:
        parts = [
            {"type": "input_text", "text": "look"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
            {"type": "input_file", "file_url": "https://example.invalid/a.pdf"},
        ]
        answer = oai.responses.create(model="m-echo", input=[{"role": "user", "content": parts}])
        assert answer.output_text == "look [image/png url:https://example.invalid/a.pdf]"


class TestState:
    def test_a_stored_response_is_continued_by_its_id(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        first = oai.responses.create(**ask("m-tok8", instructions="be brief"))
        second = oai.responses.create(**ask("m-tok2", previous_response_id=first.id))
        assert second.previous_response_id == first.id
        assert second.usage.input_tokens == 4 + 8 + 4  # what was said before is read again; instructions are not kept
        third = oai.responses.create(**ask("m-tok2", previous_response_id=second.id))
        assert third.usage.input_tokens == 16 + 2 + 4

    def test_a_streamed_response_is_stored_once_it_is_finished(self, oai: openai.OpenAI, http: httpx.Client) -> None:
        with oai.responses.create(**ask("m-tok8", stream=True)) as stream:
            finished = next(iter(stream)).response.id
            list(stream)
        assert oai.responses.create(**ask("m-tok1", previous_response_id=finished)).usage.input_tokens == 16
        broken = events_of(http.post("/v1/responses", json=ask("m-errevent5", stream=True)).text)[0]["response"]["id"]
        with pytest.raises(openai.BadRequestError, match="not found"):
            oai.responses.create(**ask("m-tok1", previous_response_id=broken))

    def test_an_id_that_was_never_stored_is_not_found(self, oai: openai.OpenAI) -> None:
        unstored = oai.responses.create(**ask("m-tok1", store=False)).id
        for unknown in (unstored, "resp_unknown"):
            with pytest.raises(openai.BadRequestError) as refused:
                oai.responses.create(**ask("m-tok1", previous_response_id=unknown))
            assert refused.value.code == "previous_response_not_found"
            assert refused.value.param == "previous_response_id"

    def test_another_account_does_not_find_it(self, oai: openai.OpenAI) -> None:
        first = oai.responses.create(**ask("m-tok1"))
        with pytest.raises(openai.BadRequestError, match="not found"):
            oai.with_options(api_key="sk-other").responses.create(**ask("m-tok1", previous_response_id=first.id))

    def test_a_call_is_answered_by_the_id_alone(self, oai: openai.OpenAI) -> None:
        first = oai.responses.create(**ask("m-tool", tools=TOOLS))
        output = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "21 degrees"}
        second = oai.responses.create(model="m-tool", input=[output], tools=TOOLS, previous_response_id=first.id)
        assert second.output_text == TEXT8
        with pytest.raises(openai.BadRequestError, match="No tool call found"):
            oai.responses.create(model="m-tool", input=[output], tools=TOOLS)

    def test_a_tool_loop_of_whole_items_ends_in_text(self, oai: openai.OpenAI) -> None:
        first = oai.responses.create(**ask("m-tool-think2", tools=TOOLS, include=SEALED, store=False))
        output = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "21 degrees"}
        second = oai.responses.create(
            model="m-tool-think2", input=[*USER, *dumped(first), output], tools=TOOLS, store=False
        )
        assert second.output_text == TEXT8
        assert second.usage.input_tokens == 6

    def test_items_are_referred_to_by_id(self, oai: openai.OpenAI) -> None:
        first = oai.responses.create(**ask("m-tok8"))
        reference = {"type": "item_reference", "id": first.output[0].id}
        assert oai.responses.create(model="m-tok1", input=[*USER, reference, *USER]).usage.input_tokens == 16
        with pytest.raises(openai.NotFoundError, match="Items are not persisted"):
            oai.responses.create(model="m-tok1", input=[{"type": "item_reference", "id": "msg_unknown"}])


class TestReasoning:
    def turns(self, response: Any) -> list[Any]:
        return [*USER, *dumped(response), *USER]

    def test_sealed_content_comes_only_when_included(self, oai: openai.OpenAI) -> None:
        assert oai.responses.create(**ask("m-think2")).output[0].encrypted_content is None
        sealed = oai.responses.create(**ask("m-think2", include=SEALED)).output[0].encrypted_content
        assert sealed.startswith("gAAAAA")
        with oai.responses.create(**ask("m-think2", include=SEALED, stream=True)) as stream:
            assert list(stream)[-1].response.output[0].encrypted_content == sealed

    def test_sealed_reasoning_comes_back_to_its_account_alone(self, oai: openai.OpenAI) -> None:
        turns = self.turns(oai.responses.create(**ask("m-think2", include=SEALED, store=False)))
        assert oai.responses.create(model="m-tok8", input=turns, store=False).output_text == TEXT8
        with pytest.raises(openai.BadRequestError, match="did not match the target organization") as refused:
            oai.with_options(api_key="sk-other").responses.create(model="m-tok8", input=turns)
        assert refused.value.code == "invalid_encrypted_content"

    @pytest.mark.parametrize("forged", ["", "gAAAAA", "gAAAAAforged", "clear text!"])
    def test_forged_reasoning_is_refused(self, oai: openai.OpenAI, forged: str) -> None:
        turns = self.turns(oai.responses.create(**ask("m-think2", include=SEALED)))
        turns[1]["encrypted_content"] = forged
        with pytest.raises(openai.BadRequestError, match="could not be decrypted"):
            oai.responses.create(model="m-tok8", input=turns)

    def test_unsealed_reasoning_has_to_be_stored(self, oai: openai.OpenAI) -> None:
        stored = self.turns(oai.responses.create(**ask("m-think2")))
        assert oai.responses.create(model="m-tok8", input=stored).output_text == TEXT8
        with pytest.raises(openai.NotFoundError, match="not found"):
            oai.with_options(api_key="sk-other").responses.create(model="m-tok8", input=stored)
        unstored = self.turns(oai.responses.create(**ask("m-think2", store=False)))
        with pytest.raises(openai.NotFoundError, match="not found"):
            oai.responses.create(model="m-tok8", input=unstored)

    def test_reasoning_does_not_stand_alone(self, oai: openai.OpenAI) -> None:
        turns = self.turns(oai.responses.create(**ask("m-think2", include=SEALED)))
        del turns[2]
        with pytest.raises(openai.BadRequestError, match="without its required following item"):
            oai.responses.create(model="m-tok8", input=turns)


class TestRefusals:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"input": None},
            {"input": []},
            {"messages": USER},
            {"max_tokens": 64},
            {"max_output_tokens": 15},
            {"temperature": 3},
            {"stop": ["x"]},
            {"x-cache": True},
            {"stream": "yes"},
            {"stream_options": {"include_usage": True}},
            {"include": ["everything"]},
            {"reasoning": {"effort": "extreme"}},
            {"input": [{"role": "tool", "content": "x"}]},
            {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
            {"input": [{"type": "function_call", "name": "weather", "arguments": "{}"}]},
            {"input": [{"type": "function_call_output", "call_id": "call_1", "output": "x"}]},
            {"input": [{"type": "magic"}]},
            {"tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}]},
            {"tools": [{**TOOLS[0], "strict": True}]},
            {"tools": TOOLS, "tool_choice": {"type": "function", "name": "unknown"}},
            {"tool_choice": "required"},
            {"text": {"format": {"type": "json_schema", "schema": {}}}},
            {"text": {"format": {"type": "json_object"}}},
        ],
    )
    def test_refuses_what_the_original_refuses(self, wrong: dict[str, Any], http: httpx.Client) -> None:
        response = http.post("/v1/responses", json={**ask("m-tok8"), **wrong})
        assert response.status_code == 400
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    def test_lets_unknown_fields_and_hosted_tools_through(self, oai: openai.OpenAI, vendor: VendorServer) -> None:
        oai.responses.create(**ask("m-tok1", tools=[{"type": "web_search"}], extra_body={"unheard_of": 1}))
        assert vendor.log[-1].body["unheard_of"] == 1

    def test_errors_reach_the_sdk_as_its_own_exceptions(self, oai: openai.OpenAI) -> None:
        for model, error in {
            "m-401": openai.AuthenticationError,
            "m-429": openai.RateLimitError,
            "m-500": openai.InternalServerError,
            "m-ctx": openai.BadRequestError,
        }.items():
            with pytest.raises(error):
                oai.responses.create(**ask(model))

    def test_a_failure_amid_the_stream_has_two_forms(self, oai: openai.OpenAI, http: httpx.Client) -> None:
        failed = events_of(http.post("/v1/responses", json=ask("m-errevent5", stream=True)).text)
        assert [event["sequence_number"] for event in failed] == list(range(len(failed)))
        assert failed[-1]["type"] == "response.failed"
        assert failed[-1]["response"]["status"] == "failed"
        assert failed[-1]["response"]["id"] == failed[0]["response"]["id"]
        assert failed[-1]["response"]["error"]["code"] == "server_error"
        plain = events_of(http.post("/v1/responses", json=ask("m-errplain5", stream=True)).text)
        assert plain[-1]["type"] == "error"
        assert plain[-1]["sequence_number"] == len(plain) - 1
        last = list(oai.responses.create(**ask("m-errplain5", stream=True)))[-1]
        assert (last.type, last.code) == ("error", "server_error")

    def test_a_whole_failure_is_a_response_that_failed(self, oai: openai.OpenAI) -> None:
        answer = oai.responses.create(**ask("m-errevent5"))
        assert (answer.status, answer.error.code, answer.output) == ("failed", "server_error", [])
