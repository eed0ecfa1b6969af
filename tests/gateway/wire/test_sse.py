from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.sse import COMMENT, DONE, Event, EventSplitter, Framer, parse_events, render_event
from gateway.wire.types import ParseError


def split_events(*pieces: bytes, max_event_bytes: int = 1 << 20) -> list[Event]:
    splitter = EventSplitter(max_event_bytes)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.finish()


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(position, len(data)) for position in at), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_frames_the_same_events(line_end: bytes) -> None:
    stream = b"event: message_start\ndata: {}\n\n: ping\n\ndata: a\ndata: b\n\n".replace(b"\n", line_end)

    assert split_events(stream) == [Event("message_start", b"{}"), Event(None, b"a\nb")]


def test_events_are_given_out_as_soon_as_their_blank_line_is_there() -> None:
    splitter = EventSplitter()

    assert splitter.feed(b"data: a\n") == []
    assert splitter.feed(b"\ndata: b\n\ndata: c") == [Event(None, b"a"), Event(None, b"b")]
    assert splitter.finish() == [Event(None, b"c")]
    assert splitter.finish() == []


def test_byte_order_mark_counts_only_at_the_start() -> None:
    bom = b"\xef\xbb\xbf"

    assert split_events(bom + b"data: a\n\ndata: " + bom + b"b\n\n") == [Event(None, b"a"), Event(None, bom + b"b")]
    assert split_events(bom[:1], bom[1:2], bom[2:] + b"data: a\n\n") == [Event(None, b"a")]
    assert split_events(bom[:2]) == []


def test_only_one_space_after_the_colon_is_syntax() -> None:
    assert split_events(b"data:a\n\ndata:  b\n\ndata\n\n") == [
        Event(None, b"a"),
        Event(None, b" b"),
        Event(None, b""),
    ]


def test_blocks_without_data_and_unknown_fields_are_ignored() -> None:
    assert split_events(b"\n\n\n" + COMMENT + b"event: ping\n\nid: 7\nretry: 10\ndata: x\nweird\n\n") == [
        Event(None, b"x")
    ]


def test_an_event_of_just_the_limit_passes_and_one_byte_more_is_refused() -> None:
    fits = b"data: " + b"x" * 94

    assert split_events(fits + b"\n\n" + fits + b"\n\n", max_event_bytes=100)[1].data == b"x" * 94
    with pytest.raises(ParseError, match="larger than 100 bytes"):
        split_events(fits + b"y\n\n" + fits + b"\n\n", max_event_bytes=100)


@given(st.lists(st.integers(0, 120), max_size=8))
def test_the_limit_holds_whatever_the_split(at: list[int]) -> None:
    fits, too_long = b"data: " + b"x" * 44 + b"\n\n", b"data: " + b"x" * 45 + b"\n\n"

    assert len(split_events(*cut(fits + fits, at), max_event_bytes=50)) == 2
    with pytest.raises(ParseError):
        split_events(*cut(fits + too_long, at), max_event_bytes=50)


def test_an_endless_line_is_refused_before_it_ends() -> None:
    framer = Framer(max_event_bytes=1000)
    for _ in range(100):
        assert framer.feed(b"0123456789") == b""

    with pytest.raises(ParseError):
        framer.feed(b"0")


def test_an_event_dripped_byte_by_byte_arrives_whole() -> None:
    stream = b"data: " + b"x" * 200_000 + b"\n\n"
    splitter = EventSplitter()

    events = [event for position in range(len(stream)) for event in splitter.feed(stream[position : position + 1])]

    assert [len(event.data) for event in events] == [200_000]


LINES = st.sampled_from(
    [b"data: {}", b"data:x", b"data: \xc3\xa9", b"event: ping", b": note", b"", b"", b"id: 1", b"data", b"\xef\xbb\xbf"]
)


@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=20),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_any_split_of_the_bytes_gives_the_same_events(lines: list[tuple[bytes, bytes]], at: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines)

    whole = split_events(stream)

    assert split_events(*cut(stream, at)) == whole
    assert split_events(*(bytes([byte]) for byte in stream)) == whole


@given(st.lists(st.tuples(st.binary(max_size=30), st.sampled_from([None, "delta"])), max_size=5))
def test_what_is_rendered_is_read_back(events: list[tuple[bytes, str | None]]) -> None:
    stream = b"".join(render_event(data, name) for data, name in events)
    expected = [Event(name, data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")) for data, name in events]

    assert split_events(stream) == expected


def test_end_marker_is_an_event_of_its_own() -> None:
    assert parse_events(DONE) == [Event(None, b"[DONE]")]
