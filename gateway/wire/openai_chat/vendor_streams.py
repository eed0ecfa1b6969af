"""A chat vendor's stream: the hottest loop of the gateway.

Where the caller speaks the same format, a block off the socket is looked at, not taken apart: runs of text are
recognised by their bytes, the payloads around them are decoded in one call as an array, and events that say
nothing but text become one chunk with their bytes.
"""

from typing import NamedTuple

import msgspec

from gateway.errors import ProviderError
from gateway.wire.openai_chat.shapes import Delta, FunctionDelta, Identity, StreamedChoice, StreamedEvent, ToolDelta
from gateway.wire.openai_chat.text_runs import TextRuns
from gateway.wire.openai_chat.usage import parse_usage
from gateway.wire.openai_chat.vendor_answers import (
    BROKEN_OFF,
    arguments_text,
    finish_reason,
    split_content,
    text_of,
)
from gateway.wire.openai_chat.vendor_errors import answered_error
from gateway.wire.sse import DONE, MAX_EVENT_BYTES, Framer, parse_events
from gateway.wire.types import Chunk, ServiceTier, ToolCallDelta, service_tier

_EVENT = msgspec.json.Decoder(StreamedEvent)
_EVENTS = msgspec.json.Decoder(list[StreamedEvent])
_IDENTITY = msgspec.json.Decoder(Identity)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_PREFIX = b"data: "
_BOUNDARY = b"\n\n"
_BETWEEN = _BOUNDARY + _PREFIX
_FIRST_LOOK = 3  # events of a stream that are decoded before the rest of their block is looked at: role, and some text


def open_parser(passthrough: bool) -> "ChatStreamParser":
    """The parser of one stream; with ``passthrough`` its chunks carry the vendor's own bytes."""
    return ChatStreamParser(passthrough)


class ChatStreamParser:
    """Reads one stream of ``chat.completion.chunk`` events, however its bytes are split.

    Passed-through chunks: consecutive events without a finish reason are one chunk, an event with a finish
    reason is one of its own, and so is the usage-only event. ``text``, ``thinking`` and ``tool_calls`` are
    set on all of them (for rescue; meaningless as one text where n > 1).

    A malformed event is left out and counted in ``skipped``. An error event raises ProviderError: at once if
    nothing sound came before it in the same block, else on the next call, after the chunks before it.
    """

    __slots__ = (
        "_begun",
        "_calls",
        "_done",
        "_failure",
        "_finished",
        "_framer",
        "_identified",
        "_passthrough",
        "_runs",
        "_service_tier",
        "skipped",
    )

    def __init__(self, passthrough: bool, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.skipped = 0
        self._passthrough = passthrough
        self._framer = Framer(max_event_bytes)
        self._runs = TextRuns()
        self._calls = _ToolCallNumbers()
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._done = False
        self._identified = False
        self._service_tier: ServiceTier = ""
        self._failure: ProviderError | None = None

    @property
    def complete(self) -> bool:
        """Whether the vendor has sent its end marker, or a finish reason for every choice it began."""
        return self._done or (bool(self._finished) and self._begun <= self._finished)

    def parse_chunk(self, data: bytes) -> list[Chunk]:
        """Chunks completed by ``data``. Raises ProviderError for an error event, ParseError for a giant one."""
        if self._failure is not None:
            raise self._failure
        block = self._framer.feed(data)
        return self._read(block) if block else []

    def parse_end(self) -> list[Chunk]:
        """What the vendor's closing of the connection completes. Raises as :meth:`parse_chunk`."""
        if self._failure is not None:
            raise self._failure
        rest = self._framer.finish()
        return self._read(rest) if rest else []

    def _read(self, block: bytes) -> list[Chunk]:
        chunks = self._in_runs(block) if self._passthrough else self._looked_at(block)
        if self._failure is not None and not chunks:
            raise self._failure
        return chunks

    def _in_runs(self, block: bytes) -> list[Chunk]:
        """The chunks of a block, of which only what stands around its run of text is decoded."""
        run = self._runs.find(block)
        if run is None:
            few = 0 if self._runs.known or not self._runs.curious else _end_of_event(block, _FIRST_LOOK)
            if not few:
                return self._looked_at(block)
            chunks = self._looked_at(block[:few])
            return _joined(chunks, self._in_runs(block[few:])) if self._goes_on else chunks
        start, end, texts = run
        chunks = self._looked_at(block[:start]) if start else []
        if self._goes_on:
            chunks = _joined(chunks, [_text_chunk(texts, block[start:end])])
            if end < len(block):
                chunks = _joined(chunks, self._looked_at(block[end:]))
        return chunks

    @property
    def _goes_on(self) -> bool:
        return not self._done and self._failure is None

    def _looked_at(self, block: bytes) -> list[Chunk]:
        if self._done:
            return []
        events, payloads = self._decode(block)
        if not events:
            return []
        chunks = self._pass_through(events, payloads) if self._passthrough else self._translate(events)
        if not self._identified and chunks:
            self._identified = True
            identity = _IDENTITY.decode(payloads[0])
            chunks[0].id = text_of(identity.id) or None
            chunks[0].model = text_of(identity.model) or None
            self._service_tier = service_tier(identity.service_tier)
        for chunk in chunks:
            if chunk.usage is not None:
                self._note_service_tier(chunk, payloads[-1])
        if self._passthrough and self._runs.curious and (texts := self._nothing_but_text(events[-1:])):
            self._runs.learn(payloads[-1], texts[0])
        return chunks

    def _note_service_tier(self, chunk: Chunk, payload: bytes) -> None:
        """What stands beside the counts goes before what was said at the beginning."""
        tier = service_tier(_IDENTITY.decode(payload).service_tier) or self._service_tier
        if tier and chunk.usage is not None:
            chunk.usage = msgspec.structs.replace(chunk.usage, service_tier=tier)

    def _decode(self, block: bytes) -> tuple[list[StreamedEvent], list[bytes]]:
        """The block's sound events and their payloads; no comments, no end marker, nothing malformed."""
        plain = block.removesuffix(DONE)
        if plain.startswith(_PREFIX):
            payloads = plain[len(_PREFIX) : -2].split(_BETWEEN)
            try:
                events = _EVENTS.decode(b"[%b]" % b",".join(payloads))
            except _MALFORMED:
                pass
            else:
                if len(events) == len(payloads):
                    self._done = len(plain) != len(block)
                    return events, payloads
        return self._decode_one_by_one(block)

    def _decode_one_by_one(self, block: bytes) -> tuple[list[StreamedEvent], list[bytes]]:
        events: list[StreamedEvent] = []
        payloads: list[bytes] = []
        for event in parse_events(block):
            if event.data.strip() == b"[DONE]":
                self._done = True
                break
            try:
                events.append(_EVENT.decode(event.data))
            except _MALFORMED:
                self.skipped += 1
            else:
                payloads.append(event.data)
        return events, payloads

    def _pass_through(self, events: list[StreamedEvent], payloads: list[bytes]) -> list[Chunk]:
        if (texts := self._nothing_but_text(events)) is not None:
            return [_text_chunk(texts, _wire(payloads))]
        chunks: list[Chunk] = []
        start = 0
        for position, event in enumerate(events):
            if _is_plain(event):
                continue
            if position > start:
                chunks.append(self._gather(events[start:position], payloads[start:position]))
            start = position + 1
            if self._fails(event):
                return chunks
            chunks.append(self._gather([event], payloads[position:start]))
        if start < len(events):
            chunks.append(self._gather(events[start:], payloads[start:]))
        return chunks

    def _nothing_but_text(self, events: list[StreamedEvent]) -> list[str] | None:
        """The texts of ``events`` that go on with the first choice and say no more; None if any says anything else.

        Nearly every block of nearly every stream is like that, so it is worth a look of its own.
        """
        if 0 not in self._begun:
            return None
        texts: list[str] = []
        for event in events:
            choices = event.choices
            if not choices or len(choices) != 1 or event.usage is not None or event.error:
                return None
            choice = choices[0]
            delta = choice.delta
            if choice.finish_reason or choice.index or delta is None or not delta.content:
                return None
            content = delta.content
            if content.__class__ is not str or delta.reasoning_content or delta.reasoning or delta.tool_calls:
                return None
            if delta.refusal or delta.function_call:
                return None
            texts.append(content)
        return texts

    def _gather(self, events: list[StreamedEvent], payloads: list[bytes]) -> Chunk:
        chunk = self._content(events)
        chunk.wire = _wire(payloads)
        return chunk

    def _translate(self, events: list[StreamedEvent]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for event in events:
            if self._fails(event):
                break
            *others, last = event.choices or (None,)
            chunks += [self._content([StreamedEvent([choice])]) for choice in others if choice]
            chunk = self._content([StreamedEvent([last] if last else None, event.usage)])
            if chunk.output_chars or chunk.final or chunk.usage or not self._identified:
                chunks.append(chunk)
        return chunks

    def _content(self, events: list[StreamedEvent]) -> Chunk:
        """What ``events`` say, as one chunk; of their usage the last, which is the most complete."""
        texts: list[str] = []
        thoughts: list[str] = []
        chunk = Chunk()
        usage = None
        refusals = 0
        for event in events:
            if event.usage is not None:
                usage = event.usage
            for choice in event.choices or ():
                chunk.index = choice.index
                if choice.finish_reason:
                    self._finish(chunk, choice)
                self._begun.add(choice.index)
                if (delta := choice.delta) is None:
                    continue
                content = delta.content
                if content and isinstance(content, str):
                    texts.append(content)
                if reasoning := delta.reasoning_content or delta.reasoning:
                    thoughts.append(reasoning)
                refusals += bool(delta.refusal)
                if delta.tool_calls or delta.refusal or delta.function_call or isinstance(content, list):
                    self._add_rarer_content(chunk, choice.index, delta)
        chunk.text += "".join(texts)
        chunk.thinking += "".join(thoughts)
        chunk.output_chars = _generated_chars(chunk)
        pieces = len(texts) + len(thoughts) + len(chunk.tool_calls) + refusals
        chunk.output_pieces = pieces if pieces > 1 else 0
        if usage is not None:
            chunk.usage = parse_usage(usage)
        return chunk

    def _add_rarer_content(self, chunk: Chunk, choice: int, delta: Delta) -> None:
        if isinstance(delta.content, list):
            text, thinking = split_content(delta.content)
            chunk.text += text
            chunk.thinking += thinking
        chunk.refusal += delta.refusal or ""
        if delta.tool_calls or delta.function_call:
            chunk.tool_calls += self._calls.deltas(choice, delta)

    def _finish(self, chunk: Chunk, choice: StreamedChoice) -> None:
        """Notes the choice's finish reason; one repeated with later usage says nothing new."""
        if choice.index not in self._finished:
            self._finished.add(choice.index)
            chunk.finish_reason = finish_reason(choice.finish_reason)

    def _fails(self, event: StreamedEvent) -> bool:
        """Whether ``event`` says that the answer is broken off; the failure is then kept for raising."""
        if event.error:
            self._failure = answered_error(event.error, "stream")
        elif any(choice.finish_reason in BROKEN_OFF for choice in event.choices or ()):
            self._failure = answered_error({"code": "incomplete_answer"}, "stream")
        return self._failure is not None


def _is_plain(event: StreamedEvent) -> bool:
    """Whether the event may share a chunk with its neighbours."""
    choices = event.choices
    if not choices:
        return event.usage is None and not event.error
    if len(choices) == 1:
        return not (choices[0].finish_reason or event.error)
    return not (event.error or any(choice.finish_reason for choice in choices))


def _end_of_event(block: bytes, number: int) -> int:
    """Where the event of a number (from 1) ends; 0 where none follows it."""
    end = 0
    for _ in range(number):
        end = block.find(_BOUNDARY, end) + len(_BOUNDARY)
        if end < len(_BOUNDARY):
            return 0
    return end if end < len(block) else 0


def _joined(chunks: list[Chunk], more: list[Chunk]) -> list[Chunk]:
    """Chunks of one block: plain ones that meet are one."""
    if chunks and more and _is_plain_chunk(chunks[-1]) and _is_plain_chunk(more[0]):
        chunks[-1].join(more.pop(0))
    return chunks + more


def _is_plain_chunk(chunk: Chunk) -> bool:
    return chunk.finish_reason is None and chunk.usage is None and chunk.index == 0


def _wire(payloads: list[bytes]) -> bytes:
    return b"%b%b\n\n" % (_PREFIX, _BETWEEN.join(payloads))


def _text_chunk(texts: list[str], wire: bytes) -> Chunk:
    text = "".join(texts)
    return Chunk(
        text=text,
        wire=wire,
        output_chars=len(text),
        output_pieces=len(texts) if len(texts) > 1 else 0,
    )


def _generated_chars(chunk: Chunk) -> int:
    chars = len(chunk.text) + len(chunk.thinking) + len(chunk.refusal)
    for call in chunk.tool_calls:
        chars += len(call.name or "") + len(call.arguments)
    return chars


class _OpenCall(NamedTuple):
    number: int
    id: str | None


class _ToolCallNumbers:
    """Numbers the tool calls of each choice as they begin; each gives its id and name once, in its first piece.

    Vendors' own indexes are no help alone: some send 0 for every call, some none.
    """

    __slots__ = ("_begun", "_open")

    def __init__(self) -> None:
        self._open: dict[tuple[int, int | None], _OpenCall] = {}  # by choice and the vendor's index
        self._begun: dict[int, int] = {}  # how many, by choice

    def deltas(self, choice: int, delta: Delta) -> tuple[ToolCallDelta, ...]:
        pieces = delta.tool_calls or [ToolDelta(function=delta.function_call)]
        return tuple(self._piece(choice, piece) for piece in pieces)

    def _piece(self, choice: int, piece: ToolDelta) -> ToolCallDelta:
        function = piece.function or FunctionDelta()
        arguments = arguments_text(function.arguments)
        call = self._open.get((choice, piece.index))
        another = call is not None and piece.id and function.name and piece.id != call.id
        if call is not None and not another:
            return ToolCallDelta(call.number, arguments=arguments)
        number = self._begun.get(choice, 0)
        self._begun[choice] = number + 1
        self._open[choice, piece.index] = _OpenCall(number, piece.id)
        return ToolCallDelta(number, piece.id or f"call_{number}", function.name or "", arguments)
