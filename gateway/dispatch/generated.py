"""How much of an answer was generated, as far as that can be seen: what is recorded where no vendor says it.

A caller is never charged for more than was generated, and never for less than was delivered. A stream's deltas are a
token each or more; of a vendor that gathers several in one, the text tells how many there are at least.
"""

from billing.estimates import tokens_at_least
from gateway.wire.types import Chunk, Completion

TOKEN_BY_TOKEN_CHARS = 8  # a vendor whose deltas are shorter on average sends one token in each
MOST_KEPT_CHARS = 1 << 17


def tokens_of_completion(completion: Completion) -> int:
    """Tokens that a whole answer is at least."""
    return sum(map(tokens_at_least, completion.generated))


def tokens_of_chunk(chunk: Chunk) -> int:
    """Tokens that a piece of a stream is at least."""
    deltas = _deltas(chunk)
    if chunk.output_chars <= deltas * TOKEN_BY_TOKEN_CHARS:
        return deltas
    return max(deltas, sum(map(tokens_at_least, _texts(chunk))))


class Generated:
    """What a stream has generated so far. Texts are counted when somebody asks, which nobody does of a stream whose
    vendor counts."""

    __slots__ = ("_chars", "_deltas", "_texts", "_tokens")

    def __init__(self) -> None:
        self._tokens = self._deltas = self._chars = 0
        self._texts: list[str] = []  # of deltas that may be several tokens each

    def note(self, chunk: Chunk) -> None:
        chars = chunk.output_chars
        if not chars:
            return
        deltas = chunk.output_pieces or 1
        if chars <= deltas * TOKEN_BY_TOKEN_CHARS:
            self._tokens += deltas
            return
        self._deltas += deltas
        self._chars += chars
        self._texts += _texts(chunk)
        if self._chars > MOST_KEPT_CHARS:
            self._count()

    @property
    def tokens(self) -> int:
        self._count()
        return self._tokens

    def _count(self) -> None:
        """Deltas are put together first: not every vendor ends them where a token ends."""
        self._tokens += max(self._deltas, tokens_at_least("".join(self._texts)))
        self._deltas = self._chars = 0
        self._texts.clear()


def _deltas(chunk: Chunk) -> int:
    return chunk.output_pieces or (1 if chunk.output_chars else 0)


def _texts(chunk: Chunk) -> list[str]:
    return [chunk.text, chunk.thinking, chunk.refusal, *(call.arguments for call in chunk.tool_calls)]
