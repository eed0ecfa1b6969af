"""The translation matrix held against golden files: tests/wire_cases, rewritten by ``tests.wire_cases.regenerate``."""

import difflib
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseUsage

from gateway.conformance.vendors import signature_of
from gateway.wire.types import Request, VendorRequest
from tests.gateway.wire.assembly import pieces_of
from tests.wire_cases import heard, scripted
from tests.wire_cases.cells import CELLS, Cell, answer_streamed, answer_whole, ask, at_a_fixed_time
from tests.wire_cases.golden import FOLDER, compact, path_of, read_body, written
from tests.wire_cases.questions import ASKED_MODEL, BODIES, CASES, GREETING, question
from tests.wire_cases.transcript import Given, Shown, given_in, sent_body, transcribe

DIALECTS = ("openai_chat", "openai_responses", "anthropic_messages")
VENDORS = (*DIALECTS, "gemini", "ollama")
PAIRS = [(dialect, vendor) for dialect in DIALECTS for vendor in VENDORS]
WAYS = ("whole", "streamed")
UNSAID = ("openai_responses", "stop_sequence")  # the one dialect without stop sequences
SAID = {
    "text": GREETING,
    "system": "tok1 tok2",
    "multi_turn": "tok1 tok2",
    "tool_call": "tok1 tok2",
    "parallel_tool_calls": "",
    "tool_result": "tok1 tok2",
    "structured_output": '{"city": "tok1"}',
    "thinking": "tok1 tok2",
    "thinking_before_a_call": "",
    "length": "tok1 tok2 tok3",
    "cached_tokens": "tok1 tok2",
}
CALLED = {"tool_call": ["Paris"], "parallel_tool_calls": ["Paris", "Rome"], "thinking_before_a_call": ["Paris"]}
FINISHED = {
    "openai_chat": ("stop", "tool_calls", "length"),
    "openai_responses": ("completed", "completed", "max_output_tokens"),
    "anthropic_messages": ("end_turn", "tool_use", "max_tokens"),
}

every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@cache
def _text(cell: Cell) -> str:
    return path_of(cell.dialect, cell.vendor_dialect, cell.case).read_text(encoding="utf-8")


def _golden(cell: Cell) -> Shown:
    shown: Shown = json.loads(_text(cell))
    return shown


REFUSED = {("gemini", "image_by_url"), ("ollama", "image_by_url")}  # they fetch none
ANSWERED = [cell for cell in CELLS if cell.case != "error" and (cell.vendor_dialect, cell.case) not in REFUSED]
every_answer = pytest.mark.parametrize("cell", ANSWERED, ids=str)


def _asked(cell: Cell, way: str) -> tuple[Request, VendorRequest, Given]:
    told = given_in(cell, _golden(cell), way)
    return *ask(cell, told.asked), told


def _vendor_stream(cell: Cell) -> tuple[Request, bytes]:
    request, _, told = _asked(cell, "streamed")
    assert told.vendor is not None
    return request, told.vendor.body


def _streamed(cell: Cell, cut: list[bytes] | None = None) -> bytes:
    request, stream = _vendor_stream(cell)
    with at_a_fixed_time():
        return answer_streamed(cell, request, cut or [stream])


def _whole(cell: Cell) -> bytes:
    request, _, told = _asked(cell, "whole")
    assert told.vendor is not None
    with at_a_fixed_time():
        return answer_whole(cell, request, told.vendor.status, told.vendor.body)


# --------------------------------------------------------------------------- exactly as written down


@every_cell
def test_a_cell_is_translated_to_the_byte_as_its_golden_file_says(cell: Cell) -> None:
    shown = _golden(cell)
    again = written(transcribe(cell, *(given_in(cell, shown, way) for way in WAYS))) + "\n"
    if again != _text(cell):
        lines = difflib.unified_diff(_text(cell).split("\n"), again.split("\n"), "golden", "now", n=2, lineterm="")
        pytest.fail(f"{path_of(cell.dialect, cell.vendor_dialect, cell.case)}\n" + "\n".join(lines), pytrace=False)


def test_every_cell_of_the_matrix_has_its_golden_file_and_no_other_file_lies_about() -> None:
    said = [(dialect, case) for dialect in DIALECTS for case in CASES if (dialect, case) != UNSAID]
    wanted = {path_of(dialect, vendor, case) for dialect, case in said for vendor in VENDORS}
    assert set(FOLDER.rglob("*.json")) == wanted
    assert len(CELLS) == len(wanted) == (3 * len(CASES) - 1) * 5


@every_cell
def test_a_golden_file_answers_the_question_of_its_case(cell: Cell) -> None:
    shown = _golden(cell)
    for way in WAYS:
        asked = question(cell.dialect, cell.case, streamed=way == "streamed")
        assert given_in(cell, shown, way).asked.decode() == compact(asked)


@every_cell
def test_what_a_vendor_is_sent_is_sound_to_it(cell: Cell) -> None:
    for way in WAYS:
        if "sent" not in _golden(cell)[way]:
            continue
        _, sent, _ = _asked(cell, way)
        assert sent.body == sent_body(_golden(cell), way)
        assert scripted.prompt_of(cell, sent).stream is (way == "streamed")


def test_only_images_by_url_are_refused_and_only_where_the_vendor_fetches_none() -> None:
    refused = {cell: _golden(cell)["whole"]["refused"] for cell in CELLS if "refused" in _golden(cell)["whole"]}
    assert {(cell.vendor_dialect, cell.case) for cell in refused} == REFUSED
    assert all(told == {"status": 400, "code": "unsupported_content"} for told in refused.values())
    assert all(_golden(cell)["streamed"]["refused"] == told for cell, told in refused.items())


# --------------------------------------------------------------------------- whole and streamed


@every_answer
def test_whole_and_streamed_answers_agree_and_fit_the_sdks_types(cell: Cell) -> None:
    in_one = heard.WHOLE[cell.dialect](_whole(cell))
    in_events = heard.STREAMED[cell.dialect](_streamed(cell))
    assert in_events == in_one
    assert in_one.usage is not None


@pytest.mark.parametrize("cell", [cell for cell in ANSWERED if cell.case in SAID], ids=str)
def test_a_caller_hears_what_the_vendor_said_and_why_it_ended(cell: Cell) -> None:
    told = heard.WHOLE[cell.dialect](_whole(cell))
    assert told.text == SAID[cell.case]
    assert told.thinking == ("think1 think2" if cell.case.startswith("thinking") else "")
    cities = CALLED.get(cell.case, [])
    assert [(name, arguments) for _, name, arguments in told.calls] == [("weather", {"city": city}) for city in cities]
    assert len({call_id for call_id, _, _ in told.calls}) == len(cities)
    stopped, called, too_long = FINISHED[cell.dialect]
    assert told.finish == (too_long if cell.case == "length" else called if cities else stopped)


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor != "ollama"])  # it has no word for refusals
def test_a_messages_caller_is_told_of_a_refusal(vendor: str) -> None:
    cell = Cell("anthropic_messages", vendor, "refusal")
    assert heard.WHOLE[cell.dialect](_whole(cell)).finish == "refusal"
    assert heard.STREAMED[cell.dialect](_streamed(cell)).finish == "refusal"


@pytest.mark.parametrize("vendor", ["openai_chat", "openai_responses", "gemini"])  # that tell thinking apart
def test_a_messages_caller_finds_the_thinking_inside_the_output(vendor: str) -> None:
    cell = Cell("anthropic_messages", vendor, "thinking")
    for told in (heard.WHOLE[cell.dialect](_whole(cell)), heard.STREAMED[cell.dialect](_streamed(cell))):
        assert told.usage is not None
        assert (told.usage["output_tokens"], told.usage["output_tokens_details"]) == (4, {"thinking_tokens": 2})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_the_item_that_was_being_written_is_incomplete_with_its_response(vendor: str, way: str) -> None:
    cut = _response(Cell("openai_responses", vendor, "length"), way)
    assert (cut["status"], [item["status"] for item in cut["output"]]) == ("incomplete", ["incomplete"])
    complete = _response(Cell("openai_responses", vendor, "parallel_tool_calls"), way)
    assert (complete["status"], [item["status"] for item in complete["output"]]) == ("completed", ["completed"] * 2)


@every_answer
def test_events_are_named_as_they_say_they_are(cell: Cell) -> None:
    events = _streamed(cell)
    said = [json.loads(data)["type"] for data in heard.data_of(events)] if cell.dialect != "openai_chat" else []
    assert heard.names_of(events) == said


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.case == "error"], ids=str)
def test_a_stream_that_fails_ends_in_an_error_and_in_nothing_that_looks_like_an_end(cell: Cell) -> None:
    *_, last = heard.data_of(_streamed(cell))
    assert json.loads(last)["error"]["message"]
    for end in (b"[DONE]", b"message_stop", b"response.completed", b'finish_reason":"stop'):
        assert end not in _streamed(cell)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_translated_responses_usage_has_all_that_the_sdks_type_demands(vendor: str) -> None:
    body = json.loads(_whole(Cell("openai_responses", vendor, "text")))
    ResponseUsage.model_validate(body["usage"])


# --------------------------------------------------------------------------- thinking that goes on elsewhere


def _answered_turn(way: str, vendor: str) -> list[dict[str, Any]]:
    """What a Messages caller has of a vendor's thinking and call, in the blocks that it hands back."""
    cell = Cell("anthropic_messages", vendor, "thinking_before_a_call")
    told = heard.WHOLE[cell.dialect](_whole(cell)) if way == "whole" else heard.STREAMED[cell.dialect](_streamed(cell))
    ((call_id, name, arguments),) = told.calls
    thought = [{"type": "thinking", "thinking": told.thinking, "signature": told.signatures[0]}]
    rest = [{"type": "thinking", "thinking": "", "signature": signature} for signature in told.signatures[1:]]
    return [*thought, *rest, {"type": "tool_use", "id": call_id, "name": name, "input": arguments}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", VENDORS)
@pytest.mark.parametrize("second", ["anthropic_messages", "gemini"])
def test_thinking_before_a_call_goes_back_to_the_vendor_that_signed_it_and_to_no_other(
    first: str, second: str, way: str
) -> None:
    cell = Cell("anthropic_messages", second, "thinking_before_a_call")
    body = question(cell.dialect, cell.case, streamed=False)
    turn = _answered_turn(way, first)
    result = {"type": "tool_result", "tool_use_id": turn[-1]["id"], "content": "18 degrees"}
    body["messages"] = [
        body["messages"][0],
        {"role": "assistant", "content": turn},
        {"role": "user", "content": [result]},
    ]
    _, sent = ask(cell, compact(body).encode())

    assert scripted.prompt_of(cell, sent).after_tool_result
    assert ("thinking" in sent.dropped) is (first != second)
    assert (signature_of("think1 think2") in sent.body.decode()) is (first == second)


def _response(cell: Cell, way: str) -> dict[str, Any]:
    """The response object that a Responses caller has in the end."""
    told: dict[str, Any] = json.loads(_whole(cell) if way == "whole" else heard.data_of(_streamed(cell))[-1])
    return told if way == "whole" else told["response"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [vendor for vendor in VENDORS if vendor != "openai_responses"])
def test_reasoning_items_of_other_vendors_are_not_looked_for_at_openai(first: str, way: str) -> None:
    answered = Cell("openai_responses", first, "thinking_before_a_call")
    output = _response(answered, way)["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call"]
    result = {"type": "function_call_output", "call_id": output[-1]["call_id"], "output": "18 degrees"}

    cell = Cell("openai_responses", "openai_responses", answered.case)
    body = question(cell.dialect, cell.case, streamed=False)
    _, sent = ask(cell, compact(body | {"input": [body["input"][0], *output, result]}).encode())

    assert scripted.prompt_of(cell, sent).after_tool_result
    assert sent.dropped == ("thinking",)
    assert json.loads(sent.body)["input"] == [body["input"][0], output[1], result]


# --------------------------------------------------------------------------- split anywhere


@pytest.mark.parametrize(("dialect", "vendor"), PAIRS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_callers_events_are_the_same_however_the_vendors_bytes_are_split(
    dialect: str, vendor: str, data: st.DataObject
) -> None:
    cells = [cell for cell in CELLS if (cell.dialect, cell.vendor_dialect) == (dialect, vendor)]
    cell = data.draw(st.sampled_from([cell for cell in cells if "vendor_events" in _golden(cell)["streamed"]]))
    _, stream = _vendor_stream(cell)
    assert _streamed(cell, data.draw(pieces_of(stream))) == _streamed(cell)


@pytest.mark.parametrize(("dialect", "vendor"), PAIRS)
@pytest.mark.parametrize("case", ["text", "parallel_tool_calls"])
def test_a_callers_events_are_the_same_when_the_vendor_drips(dialect: str, vendor: str, case: str) -> None:
    cell = Cell(dialect, vendor, case)
    _, stream = _vendor_stream(cell)
    assert _streamed(cell, [stream[at : at + 1] for at in range(len(stream))]) == _streamed(cell)


# --------------------------------------------------------------------------- passed through

ODD = b'"z_unknown":{"e": 1.50e+2, "big":123456789012345678901234567890,"s":"\\u00e9\\/", "n" : [ ] }'
EXTENSION = b'"x-cache":false'


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_request_in_the_vendors_own_format_goes_on_byte_for_byte(dialect: str, case: str, way: str) -> None:
    if (dialect, case) == UNSAID:
        assert case not in BODIES[dialect]
        return
    asked = read_body(question(dialect, case, streamed=way == "streamed"))
    odd = asked[:-1] + b"," + ODD + b"," + EXTENSION + b"}"
    cell = Cell(dialect, dialect, case)
    _, sent = ask(cell, odd)
    model = b'"model":"%b"' % cell.vendor_model.encode()
    assert sent.body == asked.replace(b'"model":"%b"' % ASKED_MODEL.encode(), model)[:-1] + b"," + ODD + b"}"


@pytest.mark.parametrize("options", ["", '"stream_options":null', '"stream_options":{"include_usage":false}'])
def test_the_one_addition_to_a_passed_chat_request_is_the_usage_of_a_stream(options: str) -> None:
    fields = f'"model":"{ASKED_MODEL}","messages":[{{"role":"user","content":"hi"}}],"stream":true'
    cell = Cell("openai_chat", "openai_chat", "text")
    _, sent = ask(cell, ("{" + ",".join(filter(None, (fields, options))) + "}").encode())
    expected = fields.replace(ASKED_MODEL, cell.vendor_model)
    assert sent.body.decode() == "{" + expected + ',"stream_options":{"include_usage":true}}'


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("case", CASES)
def test_a_passed_answer_is_the_vendors_own_but_for_the_metadata(dialect: str, case: str) -> None:
    cell = Cell(dialect, dialect, case)
    if cell not in ANSWERED:
        assert case == "error" or (dialect, case) == UNSAID
        return
    _, _, whole = _asked(cell, "whole")
    _, stream = _vendor_stream(cell)
    assert whole.vendor is not None
    metadata = b"" if dialect == "anthropic_messages" else b',"x-gateway":{"request_id":"req_golden"}'
    assert _whole(cell).replace(metadata, b"") == whole.vendor.body
    assert _streamed(cell).replace(metadata, b"") == stream
    assert (_whole(cell) + _streamed(cell)).count(metadata or b"x-gateway") == (2 if metadata else 0)
