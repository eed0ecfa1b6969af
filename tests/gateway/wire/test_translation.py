import pytest

from gateway.errors import ProviderError
from gateway.wire.translation import ChunkReader, accepted_knobs, generated_call_id, token_count
from gateway.wire.types import Chunk, ParseError, Sampling


class Letters:
    """Every byte is a frame."""

    def feed(self, data: bytes) -> list[bytes]:
        if b"!" in data:
            raise ParseError("too large")
        return [bytes([byte]) for byte in data]

    def finish(self) -> list[bytes]:
        return []


class LetterReader(ChunkReader[bytes]):
    def _read(self, frame: bytes) -> list[Chunk]:
        if frame == b"x":
            raise ProviderError("broken", kind="stream")
        return [Chunk(text=frame.decode())]


def reader() -> LetterReader:
    return LetterReader(Letters())


def test_chunks_before_an_error_are_handed_out_and_the_error_is_raised_for_good() -> None:
    letters = reader()

    assert [chunk.text for chunk in letters.parse_chunk(b"abxc")] == ["a", "b"]
    for _ in range(2):
        with pytest.raises(ProviderError):
            letters.parse_chunk(b"d")
    with pytest.raises(ProviderError):
        letters.parse_end()


def test_a_frame_that_is_no_text_is_skipped_and_counted() -> None:
    letters = reader()

    assert [chunk.text for chunk in letters.parse_chunk(b"a\xffb")] == ["a", "b"]
    assert letters.skipped == 1


def test_an_oversized_frame_is_raised() -> None:
    with pytest.raises(ParseError):
        reader().parse_chunk(b"!")


def test_only_knobs_that_were_turned_are_noted_as_dropped() -> None:
    turned = Sampling(n=1, seed=0, presence_penalty=0, parallel_tool_calls=True, logprobs=False, stop=("a",))
    sampling, dropped = accepted_knobs(turned, frozenset(Sampling.__struct_fields__))

    assert sorted(dropped) == ["seed", "stop"]
    assert (sampling.seed, sampling.stop) == (None, ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (3.0, 3), (0, 0), (-1, None), (2.5, None), ("3", None), (True, None), (None, None), (10**12, None)],
)
def test_a_count_is_a_whole_number_within_reason(value: object, expected: int | None) -> None:
    assert token_count(value) == expected


def test_a_generated_id_depends_on_its_whole_origin() -> None:
    assert generated_call_id("a", 1) == generated_call_id("a", 1)
    assert (
        len({generated_call_id("a", 1), generated_call_id("a", 2), generated_call_id("a1"), generated_call_id()}) == 4
    )
