"""A vendor's stream of named events, translated or passed through.

Passed through, a block off the socket is looked at, not taken apart: its payloads are decoded in one call as an
array, and events that say nothing but text become one chunk with their bytes.
"""

from gateway.errors import ProviderError
from gateway.wire.anthropic_messages.answers import MessageStream, StreamEvent
from gateway.wire.passed_events import EventReader
from gateway.wire.sse import MAX_EVENT_BYTES, Framer
from gateway.wire.types import Chunk, OpenBlock
from gateway.wire.verbs import StreamParser

_NO_BLOCK = ""


def open_parser(passthrough: bool) -> StreamParser:
    """The parser of one stream; with ``passthrough`` its chunks carry the vendor's own bytes."""
    return PassedMessageStream() if passthrough else MessageStream()


class PassedMessageStream:
    """Reads one stream whose caller speaks the same dialect.

    Consecutive events are one chunk up to the one with the stop reason, which is one of its own. The closing
    ``message_stop`` is left out: whoever renders the end writes it. Malformed events are left out and counted; an
    error event raises, after the chunks before it were handed out.
    """

    __slots__ = ("_block", "_events", "_failure", "_framer", "_messages")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._framer = Framer(max_event_bytes)
        self._events = EventReader(StreamEvent)
        self._messages = MessageStream()
        self._block: OpenBlock | None = None
        self._failure: ProviderError | None = None

    @property
    def complete(self) -> bool:
        return self._messages.complete

    @property
    def skipped(self) -> int:
        return self._events.skipped

    def parse_chunk(self, data: bytes) -> list[Chunk]:
        """Chunks completed by ``data``. Raises ProviderError for an error event, ParseError for a giant one."""
        return self._read(self._framer.feed(data))

    def parse_end(self) -> list[Chunk]:
        """What the vendor's closing of the connection completes. Raises as :meth:`parse_chunk`."""
        return self._read(self._framer.finish())

    def _read(self, block: bytes) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure
        if not block:
            return []
        raws, events = self._events.read(block)
        if (texts := _nothing_but_text(events)) is not None:
            return [self._text_chunk(texts, block)]
        chunks: list[Chunk] = []
        for event, raw in zip(events, raws, strict=True):
            if event is None:
                continue
            try:
                chunk = self._messages.interpret(event)
            except ProviderError as failure:
                self._failure = failure
                if not chunks:
                    raise
                break
            if event.type != "message_stop":
                self._add(chunks, chunk or Chunk(), event, raw)
        return chunks

    def _text_chunk(self, texts: list[str], block: bytes) -> Chunk:
        text = "".join(texts)
        return Chunk(
            text=text,
            wire=block,
            output_chars=len(text),
            output_pieces=len(texts) if len(texts) > 1 else 0,
        )

    def _add(self, chunks: list[Chunk], chunk: Chunk, event: StreamEvent, wire: bytes) -> None:
        """One more event: joined to the chunk before it unless one of them ends the answer."""
        if event.type == "content_block_start" and event.content_block is not None:
            self._block = OpenBlock(event.index, event.content_block.type)
        elif event.type == "content_block_stop":
            self._block = OpenBlock(event.index, _NO_BLOCK)
        chunk.wire, chunk.block = wire, self._block
        last = chunks[-1] if chunks else None
        if last is None or last.final or chunk.final:
            chunks.append(chunk)
        else:
            last.join(chunk)


def _nothing_but_text(events: list[StreamEvent | None]) -> list[str] | None:
    """The texts of ``events`` that go on with a text and say no more; None if any says anything else."""
    texts: list[str] = []
    for event in events:
        if event is None or event.type != "content_block_delta":
            return None
        delta = event.delta
        if delta is None or not delta.text:
            return None
        texts.append(delta.text)
    return texts
