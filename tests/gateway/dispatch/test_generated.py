"""What was generated of an answer that no vendor counted, as far as it can be seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.generated import MOST_KEPT_CHARS, Generated, tokens_of_chunk, tokens_of_completion
from gateway.wire.types import Chunk, Completion, ToolCallDelta

WORDS = [f" word{number}" for number in range(1, 41)]


def chunk(text: str, deltas: int = 0) -> Chunk:
    return Chunk(text=text, output_chars=len(text), output_pieces=deltas)


def generated_in(*chunks: Chunk) -> int:
    seen = Generated()
    for each in chunks:
        seen.note(each)
    return seen.tokens


def test_short_deltas_are_a_token_each_whatever_they_say() -> None:
    assert generated_in(*(chunk(piece) for piece in ("t", "ok", "en", "s!"))) == 4
    assert generated_in(chunk("tokens!", deltas=4), chunk("")) == 4


def test_deltas_of_many_words_are_as_many_tokens_as_words_at_least() -> None:
    assert generated_in(chunk("".join(WORDS))) == 40
    assert generated_in(chunk("".join(WORDS[:20])), chunk("".join(WORDS[20:]))) == 40


def test_thoughts_refusals_and_arguments_count_as_text_does() -> None:
    arguments = '{"city": "Paris", "when": "today"}'
    said = Chunk(
        thinking="one two three",
        refusal="four five",
        tool_calls=(ToolCallDelta(0, "c1", "weather", arguments),),
        output_chars=13 + 9 + len(arguments),
    )
    assert tokens_of_chunk(said) == 3 + 2 + 12
    assert generated_in(said) == 16  # what stands side by side may be one word


def test_a_word_that_two_deltas_share_is_counted_once() -> None:
    assert generated_in(chunk("counter-revolut"), chunk("ionaries everywhere")) == 3


def test_a_delta_is_a_token_even_where_its_text_is_less() -> None:
    assert generated_in(chunk("antidisestab"), chunk("lishmentarianism")) == 2


@given(st.lists(st.sampled_from(WORDS), min_size=1), st.data())
def test_however_a_text_is_cut_no_more_is_counted_than_its_words_and_deltas(
    words: list[str], data: st.DataObject
) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=10)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert len(pieces) <= generated_in(*map(chunk, pieces)) <= len(words) + len(pieces)


def test_a_stream_keeps_no_more_text_than_it_may() -> None:
    seen = Generated()
    block = "".join(WORDS) * 10
    for _ in range(4 * MOST_KEPT_CHARS // len(block)):
        seen.note(chunk(block))
        assert sum(map(len, seen._texts)) <= MOST_KEPT_CHARS
    assert seen.tokens == pytest.approx(400 * (4 * MOST_KEPT_CHARS // len(block)), rel=0.02)


def test_a_whole_answer_is_the_sum_of_what_it_says() -> None:
    completion = Completion(id="", model="", usage=None, generated=("one two", "", '{"a":1}'))
    assert tokens_of_completion(completion) == 2 + 5
