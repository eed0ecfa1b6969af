"""How many tokens a text is, where no vendor has counted them."""

import re

CHARS_PER_TOKEN = 4  # a rule of thumb, for prompts
READ_WHOLE_CHARS = 1 << 16  # of a longer text samples are counted: about half a second a million characters
SAMPLES = 16

# Scripts without spaces between words are not taken apart beforehand, and their commonest words are single tokens. So
# two characters of Chinese or Japanese and four of Thai, Lao, Tibetan, Burmese or Khmer, whose letters are many to a
# word, count as one token: a rule of thumb, chosen low.
_IN_TWOS = (
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_IN_FOURS = "\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf"
# Every other script, with the marks that stand above and below its letters.
_LETTERS = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u0dff\u10a0-\u177f\u1800-\u194f\u1a00-\u1a1f\u1ab0-\u1fff\u2c00-\u2dff\ua000-\ud7ff"
    "\ufb00-\ufdff\ufe20-\ufe2f\ufe70-\ufefe\U00010000-\U0001efff"
)
_WRITTEN = f"0-9{_LETTERS}{_IN_TWOS}{_IN_FOURS}"
# Vocabularies differ in what may share a token. Each alternative takes what any of them lets share one, and no more
# than the longest tokens that there are; so each is one token at least. All of it is bounded, so no text takes long.
_PIECE = re.compile(
    # a word, the space or the sign before it, "'s" and the like, and a number that belongs to it ("mp3")
    rf"[^\r\n{_WRITTEN}]?[{_LETTERS}]{{1,64}}(?:'(?:[sdmt]|ll|re|ve))?[0-9]{{0,3}}"
    # digits by threes; characters without spaces; signs, and the ends of lines after them
    rf"|[^\S\r\n]?(?:[0-9]{{1,3}}|[{_IN_TWOS}]{{1,2}}|[{_IN_FOURS}]{{1,4}}|[^\s{_WRITTEN}]{{1,128}}[\r\n]{{0,128}})"
    r"|\s{1,128}"
)


def tokens_by_length(chars: int) -> int:
    """Tokens that so many characters are likely to be, rounded up."""
    return -(-chars // CHARS_PER_TOKEN)


def tokens_at_least(text: str) -> int:
    """Tokens that ``text`` is, whichever vendor's tokenizer made it: nearly never more than that.

    Byte-pair tokenizers take a text apart into words, numbers and signs before they merge anything, and merge nothing
    across: so many pieces, so many tokens or more. Takes time in proportion to the length, and about 30 ms at most: of
    a text that is longer than any model's answer pieces are counted here and there, and the rest taken to be like that.
    """
    if len(text) <= READ_WHOLE_CHARS:
        return len(_PIECE.findall(text))
    size = READ_WHOLE_CHARS // SAMPLES
    step = (len(text) - size) / (SAMPLES - 1)
    # A sample may cut a piece in two at its beginning.
    pieces = sum(
        len(_PIECE.findall(text, start, start + size)) - 1 for start in (int(n * step) for n in range(SAMPLES))
    )
    return pieces * len(text) // READ_WHOLE_CHARS
