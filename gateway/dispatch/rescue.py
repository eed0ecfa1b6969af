"""Completing a stream that broke off: what was delivered, and another target's answer joined to it.

The join is sound in two cases only. Either the next target continues the very text the caller has (a prefill),
or it starts over and is held back until it has said, word for word, what the caller already has. Anything that
cannot be joined like that (tool calls begun, several choices, a text that differs) is not glued together.
"""

from collections.abc import Sequence
from typing import Self

import msgspec

from gateway.dispatch.generated import tokens_of_chunk
from gateway.errors import ProviderError
from gateway.providers.client import CANONICAL, VendorStream, conversation_of
from gateway.wire.types import Chunk, Message, Request, Text

TELLING_CHARS = 24  # that repeat the beginning of an answer are no coincidence
MAX_TEXT_BYTES = 1 << 20  # of an answer longer than that the beginning is not kept


class Diverged(ProviderError):
    """Another target started over and says something else than what was delivered."""

    def __init__(self) -> None:
        super().__init__("Another provider's answer does not fit what was delivered.", kind="diverged")


class Delivered:
    """What the caller has of a streamed answer."""

    __slots__ = ("_chars", "_joinable", "_texts", "thinking")

    def __init__(self, request: Request) -> None:
        self._texts: list[str] = []
        self._chars = 0
        self._joinable = request.operation == "chat" and request.choices == 1
        self.thinking = False

    def note(self, chunk: Chunk) -> None:
        if text := chunk.text:
            self._texts.append(text)
            self._chars += len(text)
            if self._chars > MAX_TEXT_BYTES:
                self._joinable = False
                self._texts.clear()
        if chunk.tool_calls or chunk.refusal or chunk.finish_reason:
            self._joinable = False
        if chunk.thinking or chunk.redacted_thinking:
            self.thinking = True

    @property
    def joinable(self) -> bool:
        """Whether the rest may come from elsewhere: nothing but text (and thinking) was said."""
        return self._joinable

    @property
    def text(self) -> str:
        return "".join(self._texts)


class Continuation:
    """The rest of a text, from a target that was given its beginning as the start of its own answer.

    Vendors refuse a beginning that ends in white space, so that is not sent: the space is taken off the rest
    instead, should the target say it again. A target may also take no notice and start over: what it says first is
    held back until that can be told, and is then joined like a restart.
    """

    NAME = "continuation"

    def __init__(self, text: str) -> None:
        self._text = text
        self._beginning = text.rstrip()
        self._space = text[len(self._beginning) :]
        self._undecided: str | None = ""  # said so far, while it may be the beginning over again
        self._restart: Restart | None = None

    def ask(self, request: Request) -> Request:
        """``request`` with the beginning of its answer."""
        conversation = conversation_of(request)
        said = Message("assistant", (Text(self._beginning),))
        extended = msgspec.structs.replace(conversation, messages=(*conversation.messages, said))
        return msgspec.structs.replace(request, dialect=CANONICAL, _conversation=extended)

    def join(self, chunks: Sequence[Chunk]) -> None:
        """Takes what the caller has off ``chunks``, in place. Raises Diverged for a start over that does not fit."""
        for chunk in chunks:
            if self._undecided is not None:
                self._decide(chunk)
            if self._restart is not None:
                self._restart.join([chunk])
            elif self._space and chunk.text:
                repeated = _common_prefix(chunk.text, self._space)
                self._space = self._space[repeated:] if repeated == len(chunk.text) else ""
                chunk.text = chunk.text[repeated:]

    def end(self) -> None:
        """A continuation may end anywhere. Raises Diverged for a start over that ended too early."""
        if self._restart is not None:
            self._restart.end()

    def _decide(self, chunk: Chunk) -> None:
        """Holds ``chunk``'s text back while nobody can tell, and gives out what was held when it can be told."""
        said, chunk.text = (self._undecided or "") + chunk.text, ""
        compared = min(len(said), len(self._text), TELLING_CHARS)
        same = said[:compared] == self._text[:compared]
        if same and compared == len(said) and not chunk.final:
            self._undecided = said
            return
        self._undecided, chunk.text = None, said
        if same and said:
            self._restart = Restart(self._text)


class Restart:
    """The whole answer once more, silent until it has passed what was delivered."""

    NAME = "restart"

    def __init__(self, text: str) -> None:
        self._ahead = text  # what the caller has and this answer has not said yet

    def ask(self, request: Request) -> Request:
        return request

    def join(self, chunks: Sequence[Chunk]) -> None:
        """Takes what the caller has off ``chunks``, in place. Raises Diverged."""
        for chunk in chunks:
            if self._ahead and chunk.text:
                said = chunk.text[: len(self._ahead)]
                if not self._ahead.startswith(said):
                    raise Diverged
                self._ahead = self._ahead[len(said) :]
                chunk.text = chunk.text[len(said) :]
            if self._ahead and (chunk.tool_calls or chunk.finish_reason):
                raise Diverged

    def end(self) -> None:
        """Raises Diverged for an answer that ended before it had said what was delivered."""
        if self._ahead:
            raise Diverged


Way = Continuation | Restart


class JoinedStream:
    """A vendor's stream without what the caller already has, with the counts of all that was generated."""

    def __init__(self, stream: VendorStream, first: list[Chunk], way: Way, *, without_thinking: bool) -> None:
        self._stream, self._way, self._without_thinking = stream, way, without_thinking
        self._first: list[Chunk] | None = first

    @property
    def complete(self) -> bool:
        return self._stream.complete

    def close(self) -> None:
        self._stream.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks, self._first = self._first, None
        if chunks is None:
            try:
                chunks = await self._stream.__anext__()
            except StopAsyncIteration:
                self._way.end()
                raise
        for chunk in chunks:  # before anything is taken off them
            chunk.output_pieces = tokens_of_chunk(chunk)
        if self._without_thinking:  # the caller has had the thoughts of another model
            for chunk in chunks:
                chunk.thinking, chunk.signature, chunk.redacted_thinking = "", None, None
        self._way.join(chunks)
        return chunks


def ways_to_complete(delivered: Delivered, *, prefill: bool) -> list[Way]:
    """How a target may complete the answer, the cheapest way first."""
    text = delivered.text
    return [Continuation(text), Restart(text)] if prefill and text.strip() else [Restart(text)]


def _common_prefix(one: str, other: str) -> int:
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length
