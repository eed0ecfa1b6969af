"""Streams: from a chat vendor however its bytes are split, and to a chat caller."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProviderError
from gateway.wire import openai_chat
from gateway.wire.openai_chat.caller_answers import ChatStreamRenderer
from gateway.wire.openai_chat.usage import parse_usage
from gateway.wire.openai_chat.vendor_streams import ChatStreamParser
from gateway.wire.sse import parse_events
from gateway.wire.types import Chunk, ParseError, ToolCallDelta, Usage

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 5}}
DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choices = [{"index": index, "delta": delta or {}, "finish_reason": finish}]
    body = {"id": "chatcmpl-1", "model": "m-1", "choices": choices, "usage": None} | fields
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def text(content: str, **fields: Any) -> bytes:
    return event({"content": content}, **fields)


def call(index: int | None, arguments: str, call_id: str | None = None, name: str | None = None) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if call_id is not None:
        piece |= {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"tool_calls": [piece]}


ROLE = event({"role": "assistant", "content": ""})
FINISH = event(finish="stop")
USAGE_ONLY = event(choices=[], usage=USAGE)


def read(*blocks: bytes, passthrough: bool = True) -> tuple[list[Chunk], ChatStreamParser]:
    parser = openai_chat.open_parser(passthrough)
    chunks = [chunk for block in blocks for chunk in parser.parse_chunk(block)]
    return chunks + parser.parse_end(), parser


def assemble(chunks: list[Chunk]) -> dict[str, Any]:
    """What a stream says in all, independent of how it was cut into chunks."""
    calls: dict[tuple[int, int], list[str]] = {}
    texts: dict[int, str] = {}
    for chunk in chunks:
        choice = chunk.index if chunk.wire is None else 0  # one passed-through chunk may speak for several choices
        texts[choice] = texts.get(choice, "") + chunk.text
        for piece in chunk.tool_calls:
            known = calls.setdefault((choice, piece.index), [piece.id or "", piece.name or "", ""])
            known[2] += piece.arguments
    return {
        "events": [event for chunk in chunks for event in parse_events(chunk.wire or b"")],
        "texts": {index: said for index, said in texts.items() if said},
        "thinking": "".join(chunk.thinking for chunk in chunks),
        "calls": calls,
        "chars": sum(chunk.output_chars for chunk in chunks),
        "pieces": sum(chunk.output_pieces or (chunk.output_chars > 0) for chunk in chunks),
        "finals": [
            (chunk.index, chunk.finish_reason, parse_events(chunk.wire or b"")) for chunk in chunks if chunk.final
        ],
        "usage": [chunk.usage for chunk in chunks if chunk.usage is not None][-1:],
    }


# --------------------------------------------------------------------------- from the vendor, passed through


def test_plain_events_of_a_block_are_one_chunk_with_their_bytes() -> None:
    block = ROLE + text("Hel") + text("lo")

    chunks, parser = read(block)

    assert chunks == [Chunk(text="Hello", wire=block, output_chars=5, output_pieces=2, id="chatcmpl-1", model="m-1")]
    assert not parser.complete


def test_finish_and_usage_are_chunks_of_their_own_and_the_end_marker_is_swallowed() -> None:
    chunks, parser = read(ROLE + text("Hi") + FINISH + USAGE_ONLY + DONE)

    assert [chunk.wire for chunk in chunks] == [ROLE + text("Hi"), FINISH, USAGE_ONLY]
    assert [chunk.finish_reason for chunk in chunks] == [None, "stop", None]
    assert [chunk.usage for chunk in chunks] == [None, None, parse_usage(USAGE)]
    assert parser.complete


@pytest.mark.parametrize("said", [("flex", "flex"), (None, "flex"), ("flex", None), ("auto", "flex")], ids=str)
def test_a_stream_says_in_which_tier_of_service_it_was_served(said: tuple[str | None, str | None]) -> None:
    first, last = said
    opening = {"id": "c", "model": "m", "service_tier": first, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    closing = {"service_tier": last, "choices": [], "usage": USAGE}
    blocks = [b"data: %b\n\n" % json.dumps(payload).encode() for payload in (opening, closing)]
    for wire in (blocks, [b"".join(blocks)]):
        parser = ChatStreamParser(passthrough=True)
        chunks = [chunk for block in wire for chunk in parser.parse_chunk(block)]
        assert [chunk.usage.service_tier for chunk in chunks if chunk.usage] == ["flex"]


def test_text_on_the_finish_event_counts() -> None:
    chunks, _ = read(event({"content": "Hi"}, finish="length"))

    assert [(chunk.text, chunk.output_chars, chunk.finish_reason) for chunk in chunks] == [("Hi", 2, "length")]


def test_usage_on_every_event_does_not_stop_coalescing_and_the_last_wins() -> None:
    first, last = {"prompt_tokens": 20, "completion_tokens": 1}, {"prompt_tokens": 20, "completion_tokens": 2}

    chunks, _ = read(text("a", usage=first) + text("b", usage=last) + event(finish="stop", usage=USAGE))

    assert [chunk.usage for chunk in chunks] == [Usage(input=20, output=2), parse_usage(USAGE)]
    assert chunks[0].text == "ab"


def test_reasoning_refusals_and_tools_count_as_output() -> None:
    chunks, _ = read(
        event({"reasoning_content": "Hm"})
        + event({"reasoning": "so"})
        + event({"refusal": "No."})
        + event(call(0, '{"a"', "c1", "f"))
        + event({"content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "y"}]})
    )

    assert (chunks[0].refusal, chunks[0].text) == ("No.", "y")
    assert sorted(chunks[0].thinking) == sorted("Hmsox")
    assert chunks[0].tool_calls == (ToolCallDelta(0, "c1", "f", '{"a"'),)
    assert chunks[0].output_chars == 2 + 2 + 3 + 5 + 2


def test_a_stream_without_end_marker_is_complete_with_its_finish_reason() -> None:
    assert read(text("a") + FINISH)[1].complete
    assert read(text("a"), DONE)[1].complete
    assert not read(text("a"))[1].complete
    assert not read(b"")[1].complete


def test_every_choice_that_began_must_finish() -> None:
    blocks = [text("a"), text("b", index=1), FINISH]

    assert not read(*blocks)[1].complete
    chunks, parser = read(*blocks, event(finish="length", index=1))
    assert parser.complete
    assert [(chunk.index, chunk.finish_reason) for chunk in chunks if chunk.final] == [(0, "stop"), (1, "length")]


def test_a_finish_reason_repeated_with_usage_is_a_usage_event() -> None:
    chunks, _ = read(text("a") + FINISH + event(finish="stop", usage=USAGE))

    assert [(chunk.final, chunk.usage is not None) for chunk in chunks] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_a_malformed_event_is_left_out_and_counted() -> None:
    chunks, parser = read(text("a") + b'data: {"choices":[\n\n' + text("b") + b"data: 5\n\n" + FINISH)

    assert parser.skipped == 2
    assert [chunk.wire for chunk in chunks] == [text("a") + text("b"), FINISH]
    assert parser.complete


def test_two_objects_in_one_event_are_malformed() -> None:
    twice = text("a")[:-2] + b"," + text("b").removeprefix(b"data: ")

    assert read(twice)[1].skipped == 1


def test_comments_and_other_framing_are_normalised() -> None:
    stream = b": processing\r\n\r\n" + text("a").replace(b"\n", b"\r\n") + text("b").replace(b"data: ", b"data:")

    chunks, _ = read(stream)

    assert [chunk.wire for chunk in chunks] == [text("a") + text("b")]


def test_nothing_after_the_end_marker_counts() -> None:
    chunks, parser = read(text("a") + DONE + text("b"))
    assert [chunk.text for chunk in chunks] == ["a"]
    assert parser.parse_chunk(text("c")) == []


@pytest.mark.parametrize("passthrough", [True, False])
def test_an_error_event_raises_after_what_came_before_it(passthrough: bool) -> None:
    error = b'data: {"error":{"message":"sk-secret died","code":503}}\n\n'
    parser = openai_chat.open_parser(passthrough)

    assert [chunk.text for chunk in parser.parse_chunk(text("a") + error + text("b"))] == ["a"]
    for verb in (lambda: parser.parse_chunk(text("b")), parser.parse_end):
        with pytest.raises(ProviderError) as caught:
            verb()
        assert (caught.value.kind, caught.value.vendor_code, caught.value.retryable) == ("stream", "503", True)
        assert "sk-secret" not in caught.value.message
    with pytest.raises(ProviderError):
        openai_chat.open_parser(passthrough).parse_chunk(error)
    assert not parser.complete


def test_a_finish_reason_that_says_broken_off_is_a_failure() -> None:
    with pytest.raises(ProviderError):
        read(event(finish="insufficient_system_resource"))


def test_a_giant_event_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        ChatStreamParser(passthrough=True, max_event_bytes=1000).parse_chunk(b"data: " + b"x" * 1001)


def test_an_event_the_end_leaves_open_still_counts_and_a_cut_one_does_not() -> None:
    chunks, parser = read(text("a"), FINISH.rstrip())
    assert chunks[-1].final
    assert chunks[-1].wire == FINISH
    assert parser.complete

    chunks, parser = read(text("a"), FINISH[:-10])
    assert [chunk.text for chunk in chunks] == ["a"]
    assert (parser.skipped, parser.complete) == (1, False)


# --------------------------------------------------------------------------- translated


def test_translated_events_are_chunks_by_choice() -> None:
    both = event(
        choices=[{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}], usage=USAGE
    )

    chunks, _ = read(ROLE + both + event({"reasoning_content": "Hm"}) + FINISH + USAGE_ONLY + DONE, passthrough=False)

    assert chunks == [
        Chunk(id="chatcmpl-1", model="m-1"),
        Chunk(text="a", output_chars=1),
        Chunk(index=1, text="b", output_chars=1, usage=parse_usage(USAGE)),
        Chunk(thinking="Hm", output_chars=2),
        Chunk(finish_reason="stop"),
        Chunk(usage=parse_usage(USAGE)),
    ]


def test_interleaved_parallel_tool_calls_are_told_apart() -> None:
    stream = [
        event(call(0, "", "c1", "f")),
        event(call(1, "", "c2", "g")),
        event(call(1, '{"b":')),
        event(call(0, '{"a":')),
        event(call(0, "1}")),
        event(call(1, "2}")),
        event(finish="tool_calls"),
    ]

    chunks, _ = read(*stream, passthrough=False)

    assert assemble(chunks)["calls"] == {(0, 0): ["c1", "f", '{"a":1}'], (0, 1): ["c2", "g", '{"b":2}']}
    assert [piece.id for chunk in chunks for piece in chunk.tool_calls] == ["c1", "c2", None, None, None, None]


@pytest.mark.parametrize("index", [0, None])
def test_calls_that_share_an_index_are_told_apart_by_id(index: int | None) -> None:
    chunks, _ = read(
        event(call(index, '{"a":1}', "c1", "f")), event(call(index, '{"b":2}', "c2", "g")), passthrough=False
    )

    assert assemble(chunks)["calls"] == {(0, 0): ["c1", "f", '{"a":1}'], (0, 1): ["c2", "g", '{"b":2}']}


def test_an_id_repeated_with_every_piece_is_one_call() -> None:
    chunks, _ = read(event(call(0, "{", "c1", "f")), event(call(0, "}", "c1", "f")), passthrough=False)

    assert assemble(chunks)["calls"] == {(0, 0): ["c1", "f", "{}"]}


def test_odd_tool_calls_are_understood() -> None:
    whole = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"a": 1}}}]}
    legacy = [event({"function_call": {"name": "g", "arguments": ""}}), event({"function_call": {"arguments": "{}"}})]

    assert assemble(read(event(whole), passthrough=False)[0])["calls"] == {(0, 0): ["call_0", "f", '{"a":1}']}
    assert assemble(read(*legacy, passthrough=False)[0])["calls"] == {(0, 0): ["call_0", "g", "{}"]}


PIECES = st.sampled_from(
    [
        ROLE,
        text("Hello"),
        text("\u00e9\u20ac\U0001f600"),
        text("b", index=1),
        text("x", usage=USAGE),
        event({"reasoning_content": "Hm"}),
        event(call(0, '{"a', "c1", "f")),
        event(call(1, '{"b', "c2", "g")),
        event(call(0, '":1}')),
        FINISH,
        event(finish="length", index=1),
        USAGE_ONLY,
        event(choices=[]),
        b": comment\n\n",
        b"data: {broken\n\n",
        b"\n",
        text("crlf").replace(b"\n", b"\r\n"),
        DONE,
    ]
)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(0, 2500), max_size=10), st.booleans())
def test_any_split_of_the_bytes_says_the_same(pieces: list[bytes], at: list[int], passthrough: bool) -> None:
    stream = b"".join(pieces)
    edges = [0, *sorted(min(position, len(stream)) for position in at), len(stream)]

    whole, whole_parser = read(stream, passthrough=passthrough)
    split, parser = read(*(stream[start:end] for start, end in pairwise(edges)), passthrough=passthrough)

    assert assemble(split) == assemble(whole)
    assert (parser.complete, parser.skipped) == (whole_parser.complete, whole_parser.skipped)


# --------------------------------------------------------------------------- to the caller


def renderer(include_usage: bool = False) -> ChatStreamRenderer:
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], "stream": True}
    body["stream_options"] = {"include_usage": include_usage}
    return openai_chat.open_stream(openai_chat.parse_request(json.dumps(body).encode(), {}))


def payloads(stream: bytes) -> list[Any]:
    assert not stream or stream.endswith(b"\n\n")
    return [json.loads(block.removeprefix(b"data: ")) for block in stream.split(b"\n\n") if block]


def test_passed_through_bytes_reach_the_caller_and_metadata_rides_on_the_final_event() -> None:
    chunks, _ = read(ROLE + text("Hi") + FINISH + USAGE_ONLY + DONE)
    rendered = renderer()

    assert rendered.render_chunk(chunks[0]) == ROLE + text("Hi")
    final = rendered.render_chunk(chunks[1], {"request_id": "r1"})
    assert final == FINISH[:-3] + b',"x-gateway":{"request_id":"r1"}}\n\n'
    assert rendered.render_chunk(chunks[1]) == FINISH
    assert rendered.render_chunk(chunks[2]) == b""
    assert rendered.render_end() == DONE


def test_the_vendors_usage_event_goes_on_if_asked_for() -> None:
    chunks, _ = read(text("Hi") + FINISH + USAGE_ONLY + DONE)
    rendered = renderer(include_usage=True)

    assert (
        b"".join(map(rendered.render_chunk, chunks)) + rendered.render_end() == text("Hi") + FINISH + USAGE_ONLY + DONE
    )


def test_text_that_carries_usage_is_never_dropped() -> None:
    chunks, _ = read(text("Hi", usage=USAGE))

    assert renderer().render_chunk(chunks[0]) == text("Hi", usage=USAGE)


def test_a_translated_stream_has_openais_events() -> None:
    rendered = renderer()
    chunks = [
        Chunk(id="msg_1", model="claude", usage=Usage(input=3)),
        Chunk(thinking="Hm"),
        Chunk(text="Hi"),
        Chunk(tool_calls=(ToolCallDelta(0, "c1", "f"),)),
        Chunk(tool_calls=(ToolCallDelta(0, arguments="{}"),)),
        Chunk(refusal="No."),
    ]

    events = payloads(b"".join(map(rendered.render_chunk, chunks)))
    final = payloads(rendered.render_chunk(Chunk(finish_reason="tool_calls"), {"request_id": "r1"}))

    assert [event["choices"][0]["delta"] for event in events + final] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"content": "Hi"},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"refusal": "No."},
        {},
    ]
    assert {(event["id"], event["object"], event["model"]) for event in events + final} == {
        ("chatcmpl-msg_1", "chat.completion.chunk", "claude")
    }
    assert [event["choices"][0]["finish_reason"] for event in events + final] == [None] * 6 + ["tool_calls"]
    assert final[0]["x-gateway"] == {"request_id": "r1"}
    assert not any("x-gateway" in event for event in events)
    assert rendered.render_end() == DONE


def test_translated_usage_is_the_last_event_if_asked_for() -> None:
    rendered = renderer(include_usage=True)
    rendered.render_chunk(Chunk(text="Hi", usage=Usage(input=3)))
    rendered.render_chunk(Chunk(finish_reason="stop"), {"request_id": "r1"})

    assert rendered.render_chunk(Chunk(usage=Usage(input=3, output=4))) == b""
    end = rendered.render_end()
    usage = payloads(end.removesuffix(DONE))[0]
    assert end.endswith(DONE)
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (3, 4)


def test_each_choice_of_a_translated_stream_gets_its_role() -> None:
    rendered = renderer()

    events = payloads(rendered.render_chunk(Chunk(text="a")) + rendered.render_chunk(Chunk(index=1, text="b")))

    assert [(event["choices"][0]["index"], list(event["choices"][0]["delta"])) for event in events] == [
        (0, ["role", "content"]),
        (0, ["content"]),
        (1, ["role", "content"]),
        (1, ["content"]),
    ]


def test_a_rescue_by_another_format_goes_on_under_the_same_name() -> None:
    rendered = renderer()
    rendered.render_chunk(read(ROLE + text("Hi"))[0][0])

    events = payloads(rendered.render_chunk(Chunk(text=" there", id="msg_2")))

    assert [event["choices"][0]["delta"] for event in events] == [{"content": " there"}]
    assert (events[0]["id"], events[0]["model"]) == ("chatcmpl-1", "m-1")


def test_an_error_ends_the_stream_in_openais_shape() -> None:
    stream = renderer().render_error(ProviderError("It died.", kind="stream"), "r1")

    assert payloads(stream) == [
        {
            "error": {
                "message": "It died.",
                "type": "server_error",
                "param": None,
                "code": "provider_error",
                "request_id": "r1",
            }
        }
    ]


def test_streamed_and_whole_answers_agree() -> None:
    message = {"role": "assistant", "content": "Hello", "tool_calls": [{"id": "c1", "function": {"name": "f"}}]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    whole = openai_chat.parse_completion(json.dumps(body).encode(), passthrough=False)

    chunks, _ = read(text("Hel"), text("lo"), event(call(0, "", "c1", "f")), event(finish="tool_calls"), USAGE_ONLY)

    said = assemble(chunks)
    assert (said["texts"], said["calls"]) == ({0: "Hello"}, {(0, 0): ["c1", "f", ""]})
    assert (said["usage"], said["finals"][0][1]) == ([whole.usage], whole.choices[0].finish_reason)
    assert said["chars"] == sum(map(len, whole.generated)) + len("f")
