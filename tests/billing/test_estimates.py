"""Tokens by the pieces that tokenizers take a text apart into, and prompts by their length."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.estimates import READ_WHOLE_CHARS, tokens_at_least, tokens_by_length

# Where three families of byte-pair vocabularies take a text apart before they merge, for ASCII.
SPLITS = {
    "one sign before a word, digits by threes": re.compile(
        r"'(?:[sdmt]|ll|ve|re)|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]{1,3}| ?[^\sa-zA-Z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "the same, with the apostrophe's letters in the word": re.compile(
        r"[^\r\na-zA-Z0-9]?[a-zA-Z]+(?:'(?:[sdmt]|ll|ve|re))?|[0-9]{1,3}| ?[^\sa-zA-Z0-9]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "a space before anything, numbers of any length": re.compile(
        r"'(?:[sdmt]|ll|ve|re)| ?[a-zA-Z]+| ?[0-9]{1,3}| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+"
    ),
}
WRITINGS = st.lists(
    st.sampled_from(
        [
            "word",
            "I",
            "don't",
            "mp3",
            "42",
            "2026",
            " ",
            "  ",
            "\n",
            "\n\n    ",
            ".",
            ", ",
            "(",
            '{"',
            '":',
            "://",
            "_",
            "\t",
            "+=",
        ]
    )
).map("".join)


def test_prompts_are_estimated_upwards() -> None:
    assert [tokens_by_length(chars) for chars in (0, 1, 4, 5)] == [0, 1, 1, 2]


@given(WRITINGS)
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_text_is_no_more_tokens_than_the_parts_that_vocabularies_take_it_apart_into(
    split: re.Pattern[str], text: str
) -> None:
    assert tokens_at_least(text) <= len(split.findall(text))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", 0),
        (" ", 1),
        ("tok1 tok2 tok3", 3),
        ("one (two) three", 5),
        ("foo.bar_baz", 3),
        ("it's", 1),
        ("a\nb\n\n  c", 5),
        ("end.\n\nNext", 3),
        ("1234", 2),
        ("中文字", 2),
        ("ภาษาไทย", 2),
        ("x" * 640, 10),
    ],
)
def test_pieces_are_words_numbers_signs_and_gaps(text: str, pieces: int) -> None:
    assert tokens_at_least(text) == pieces


@given(st.lists(st.from_regex(r"[A-Za-z]{1,20}[0-9]{0,3}", fullmatch=True), min_size=1))
def test_words_apart_by_spaces_are_a_token_each(words: list[str]) -> None:
    assert tokens_at_least(" ".join(words)) == len(words)


@given(st.text())
def test_a_text_is_at_most_a_token_a_character_and_at_least_one(text: str) -> None:
    assert bool(text) <= tokens_at_least(text) <= len(text)


def test_a_very_long_text_is_counted_by_samples_as_if_it_were_counted_whole() -> None:
    line = "So much is said of it, in 1024 words or more.\n"
    lines = 40 * READ_WHOLE_CHARS // len(line)

    assert 0.98 * lines * tokens_at_least(line) < tokens_at_least(line * lines) <= lines * tokens_at_least(line)


@pytest.mark.parametrize("unit", ["x", " ", "\n", " \n", ".", "a'", "中", "1", ".\r", "\u0301", "😀", " x"])
def test_no_text_keeps_the_loop_waiting(unit: str) -> None:
    text = unit * ((10 << 20) // len(unit))
    started = time.process_time()
    tokens_at_least(text)
    assert time.process_time() - started < 1.0  # some 0.03 s where nothing else runs; a backtracking one takes hours
