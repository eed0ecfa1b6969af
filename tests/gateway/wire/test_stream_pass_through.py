"""Same-format streams of every dialect: the vendor's bytes come out untouched, and what they say is known."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.conformance.vendors.answers import OfferedTool, Prompt, plan
from gateway.conformance.vendors.anthropic import Anthropic
from gateway.conformance.vendors.behaviours import parse_behaviour
from gateway.conformance.vendors.formats import Format
from gateway.conformance.vendors.openai import OpenAI
from gateway.conformance.vendors.responses import OpenAIResponses
from gateway.errors import ProviderError
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.types import Chunk, Request

DIALECTS: dict[str, tuple[Any, Format]] = {
    "chat": (openai_chat, OpenAI()),
    "responses": (openai_responses, OpenAIResponses()),
    "messages": (anthropic_messages, Anthropic()),
}
BEHAVIOURS = ("tok12", "tok8-think5", "tool", "tools2", "tok4-tools2", "length-tok6", "refuse")


def stream_of(vendor: Format, words: str) -> list[bytes]:
    """The events a scripted vendor writes."""
    prompt = Prompt("m", stream=True, texts=["a b c"], tools=[OfferedTool("weather")])
    behaviour = parse_behaviour(words)
    return [frame.data for frame in vendor.frames(plan(prompt, behaviour), prompt, behaviour)]


def request_of(dialect: Any) -> Request:
    body: dict[str, Any] = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    if dialect is openai_responses:
        body = {"model": "m", "stream": True, "input": "a b c"}
    else:
        body |= {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 100}
    return dialect.parse_request(msgspec.json.encode(body), {})


def parse(parser: Any, data: bytes, cuts: list[int]) -> list[Chunk]:
    """Chunks of ``data`` cut at ``cuts``."""
    chunks: list[Chunk] = []
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        chunks += parser.parse_chunk(data[start:end])
    return chunks + parser.parse_end()


def told(chunks: list[Chunk]) -> dict[str, Any]:
    """What chunks say, however it was divided among them."""
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for piece in chunk.tool_calls:
            call = calls.setdefault(piece.index, ["", ""])
            call[0] += piece.name or ""
            call[1] += piece.arguments
    return {
        "text": "".join(chunk.text for chunk in chunks),
        "thinking": "".join(chunk.thinking for chunk in chunks),
        "refusal": "".join(chunk.refusal for chunk in chunks),
        "calls": calls,
        "finish": [chunk.finish_reason for chunk in chunks if chunk.final],
        "usage": [chunk.usage for chunk in chunks if chunk.usage][-1:],
        "chars": sum(chunk.output_chars for chunk in chunks),
        "pieces": sum(chunk.output_pieces or (chunk.output_chars > 0) for chunk in chunks),
    }


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("words", BEHAVIOURS)
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_any_split_gives_the_same_and_the_translation_agrees(name: str, words: str, cuts: list[int]) -> None:
    dialect, vendor = DIALECTS[name]
    data = b"".join(stream_of(vendor, words))
    split = told(parse(dialect.open_parser(True), data, cuts))

    assert split == told(parse(dialect.open_parser(True), data, []))
    assert split == told(parse(dialect.open_parser(False), data, cuts))


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("words", BEHAVIOURS)
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_every_byte_of_the_vendors_reaches_the_caller(name: str, words: str, cuts: list[int]) -> None:
    dialect, vendor = DIALECTS[name]
    data = b"".join(stream_of(vendor, words))
    renderer = dialect.open_stream(request_of(dialect))
    out = b"".join(renderer.render_chunk(chunk) for chunk in parse(dialect.open_parser(True), data, cuts))

    assert out + renderer.render_end() == data


@pytest.mark.parametrize("name", DIALECTS)
def test_a_malformed_event_is_left_out_and_counted(name: str) -> None:
    dialect, vendor = DIALECTS[name]
    events = stream_of(vendor, "tok12")
    parser = dialect.open_parser(True)
    chunks = parse(parser, b"".join([*events[:6], vendor.broken_event, *events[6:]]), [])

    assert parser.skipped == 1
    assert parser.complete
    assert told(chunks)["text"] == " ".join(f"tok{number}" for number in range(1, 13))


@pytest.mark.parametrize("name", DIALECTS)
@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=6))
def test_what_came_before_an_error_event_is_not_lost(name: str, cuts: list[int]) -> None:
    dialect, vendor = DIALECTS[name]
    data = b"".join(stream_of(vendor, "tok12")[:8]) + vendor.error_event()
    parser = dialect.open_parser(True)
    chunks: list[Chunk] = []
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]

    def read() -> None:
        for start, end in itertools.pairwise(places):
            chunks.extend(parser.parse_chunk(data[start:end]))
        chunks.extend(parser.parse_end())

    with pytest.raises(ProviderError):
        read()
    before = told(parse(dialect.open_parser(True), b"".join(stream_of(vendor, "tok12")[:8]), []))
    assert told(chunks)["text"] == before["text"] != ""


def rescued(dialect: Any, vendor: Format, kept: int) -> bytes:
    """What a caller gets when a stream breaks off after ``kept`` events and a chat vendor completes it."""
    events = stream_of(vendor, "tok12")[:kept]
    passed = parse(dialect.open_parser(True), b"".join(events), [])
    said = told(passed)["text"] if passed else ""
    rest = parse(openai_chat.open_parser(False), b"".join(stream_of(OpenAI(), "tok12")), [])
    renderer = dialect.open_stream(request_of(dialect))
    out = b"".join(renderer.render_chunk(chunk) for chunk in passed)
    for chunk in rest:
        known = min(len(said), len(chunk.text))
        chunk.text, said = chunk.text[known:], said[known:]
        out += renderer.render_chunk(chunk)
    return out + renderer.render_end()


def events_named(data: bytes, name: bytes) -> int:
    return data.count(b'"type":"' + name + b'"')


@pytest.mark.parametrize("kept", range(3, 13))
@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [("messages", b"message_start", b"message_stop"), ("responses", b"response.created", b"response.completed")],
)
def test_a_rescued_stream_is_one_answer(name: str, begin: bytes, end: bytes, kept: int) -> None:
    dialect, vendor = DIALECTS[name]
    data = rescued(dialect, vendor, kept)

    assert events_named(data, begin) == events_named(data, end) == 1
    whole = told(parse(dialect.open_parser(False), data, []))
    assert whole["text"] == " ".join(f"tok{number}" for number in range(1, 13))
    assert whole["finish"] == ["stop"]
    assert whole["usage"][0].output == 12


@given(st.data())
@pytest.mark.parametrize("name", ["messages", "responses", "chat"])
def test_parallel_calls_arrive_complete_whatever_their_order(name: str, data: st.DataObject) -> None:
    from gateway.wire.types import ToolCallDelta

    dialect, _ = DIALECTS[name]
    arguments = data.draw(st.lists(st.lists(st.text(max_size=4), max_size=5), min_size=1, max_size=3))
    order = data.draw(st.permutations([i for i, pieces in enumerate(arguments) for _ in pieces]))
    renderer = dialect.open_stream(request_of(dialect))
    out = b""
    for index in range(len(arguments)):
        delta = ToolCallDelta(index, f"call_{index}", f"tool_{index}")
        out += renderer.render_chunk(Chunk(id="x", model="m", tool_calls=(delta,)))
    left = [list(pieces) for pieces in arguments]
    for index in order:
        out += renderer.render_chunk(Chunk(tool_calls=(ToolCallDelta(index, arguments=left[index].pop(0)),)))
    out += renderer.render_chunk(Chunk(finish_reason="tool_calls"))
    out += renderer.render_end()

    calls = told(parse(dialect.open_parser(False), out, []))["calls"]
    expected = {i: [f"tool_{i}", "".join(pieces)] for i, pieces in enumerate(arguments)}
    # An empty call is told as the empty object it stands for.
    assert {i: [call[0], "" if call[1] == "{}" else call[1]] for i, call in calls.items()} == expected
