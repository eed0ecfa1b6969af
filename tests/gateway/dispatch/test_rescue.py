"""What of a broken stream may be completed, and how the rest is joined to it."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.rescue import MAX_TEXT_BYTES, Continuation, Delivered, Diverged, Restart, ways_to_complete
from gateway.wire import openai_chat
from gateway.wire.types import Chunk, Request, Text, ToolCallDelta


def request(**more: object) -> Request:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]} | more
    return openai_chat.parse_request(msgspec.json.encode(body), {})


def delivered(*chunks: Chunk, **more: object) -> Delivered:
    kept = Delivered(request(**more))
    for chunk in chunks:
        kept.note(chunk)
    return kept


@pytest.mark.parametrize(
    ("chunk", "joinable"),
    [
        (Chunk(text="a"), True),
        (Chunk(thinking="a"), True),
        (Chunk(tool_calls=(ToolCallDelta(0, "c", "t"),)), False),
        (Chunk(refusal="no"), False),
        (Chunk(finish_reason="stop"), False),
        (Chunk(text="x" * (MAX_TEXT_BYTES + 1)), False),
    ],
)
def test_only_text_can_be_joined(chunk: Chunk, joinable: bool) -> None:
    assert delivered(chunk).joinable is joinable


def test_several_choices_cannot_be_joined() -> None:
    assert not delivered(Chunk(text="a"), n=2).joinable


@given(text=st.text(max_size=30), rest=st.text(max_size=30), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_a_restart_gives_exactly_the_rest_however_it_is_cut(text: str, rest: str, cuts: list[int]) -> None:
    whole = text + rest
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    way = Restart(text)
    said = ""
    for start, end in zip(places, places[1:], strict=False):  # noqa: RUF007 - the pieces of a cut
        chunk = Chunk(text=whole[start:end], output_chars=end - start)
        way.join([chunk])
        said += chunk.text
    way.end()

    assert said == rest


@given(text=st.text(min_size=1, max_size=20), other=st.text(max_size=40))
def test_a_restart_that_says_something_else_is_noticed(text: str, other: str) -> None:
    way = Restart(text)
    chunk = Chunk(text=other)
    if other.startswith(text):
        way.join([chunk])
        assert chunk.text == other[len(text) :]
    elif text.startswith(other):
        way.join([chunk])
        with pytest.raises(Diverged):
            way.end()
    else:
        with pytest.raises(Diverged):
            way.join([chunk])


@pytest.mark.parametrize("early", [Chunk(finish_reason="stop"), Chunk(tool_calls=(ToolCallDelta(0, "c", "t"),))])
def test_a_restart_that_ends_or_calls_a_tool_too_early_does_not_fit(early: Chunk) -> None:
    with pytest.raises(Diverged):
        Restart("some text").join([Chunk(text="some"), early])


@pytest.mark.parametrize(
    ("text", "continued", "joined"),
    [
        ("one two", " three", " three"),
        ("one two ", " three", "three"),
        ("one two ", "three", "three"),
        ("one\n\n", "\n\ntwo", "two"),
        ("one\n\n", "\ntwo", "two"),
    ],
)
def test_white_space_that_was_delivered_is_not_said_twice(text: str, continued: str, joined: str) -> None:
    chunk = Chunk(text=continued)
    Continuation(text).join([chunk])
    assert chunk.text == joined


@given(text=st.text(min_size=1, max_size=60), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_a_target_that_starts_over_although_it_was_given_the_beginning_is_joined_like_a_restart(
    text: str, cuts: list[int]
) -> None:
    whole = text + " and the rest of it"
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    way = Continuation(text)
    chunks = [Chunk(text=whole[start:end]) for start, end in itertools.pairwise(places)]
    for chunk in [*chunks, Chunk(finish_reason="stop")]:
        way.join([chunk])
        chunks.append(chunk)
    way.end()

    assert "".join(chunk.text for chunk in chunks[: len(places) - 1]) + chunks[-1].text == " and the rest of it"


def test_a_short_continuation_that_looks_like_the_beginning_is_not_lost() -> None:
    way = Continuation("no, I said: ")
    chunks = [Chunk(text="no"), Chunk(text="pe"), Chunk(finish_reason="stop")]
    way.join(chunks)
    assert "".join(chunk.text for chunk in chunks) == "nope"


def test_a_continuation_asks_with_the_beginning_of_the_answer() -> None:
    asked = Continuation("one two ").ask(request())
    assert asked._conversation is not None
    last = asked._conversation.messages[-1]
    assert (last.role, last.parts) == ("assistant", (Text("one two"),))


def test_a_prefill_is_tried_where_the_target_takes_one() -> None:
    kinds = [type(way) for way in ways_to_complete(delivered(Chunk(text="a")), prefill=True)]
    assert kinds == [Continuation, Restart]
    assert [type(way) for way in ways_to_complete(delivered(Chunk(text="a")), prefill=False)] == [Restart]
    assert [type(way) for way in ways_to_complete(delivered(), prefill=True)] == [Restart]
