"""A streamed answer as a Responses caller reads it: numbered events about items that open, grow and close."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.errors import GatewayError
from gateway.wire.metadata import METADATA_FIELD, splice_metadata
from gateway.wire.openai_responses.caller_answers import (
    Item,
    call_item,
    finished,
    item_id,
    last_status,
    message_item,
    reasoning_item,
    refusal_part,
    render_error,
    response_id_of,
    response_object,
    text_part,
)
from gateway.wire.openai_responses.shapes import FOREIGN_REASONING
from gateway.wire.sse import render_event
from gateway.wire.types import Chunk, FinishReason, Request, ToolCallDelta, Usage

_encode = msgspec.json.Encoder().encode
_DATA = b"\ndata: "


def open_stream(request: Request) -> "ResponseStreamRenderer":
    """The renderer of one streamed answer to ``request``."""
    return ResponseStreamRenderer(request)


@dataclass(slots=True)
class _OpenItem:
    """An output item that is being written."""

    kind: str  # thinking | text | refusal | call
    id: str
    index: int
    pieces: list[str] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    status: str = "in_progress"

    @property
    def written(self) -> str:
        return "".join(self.pieces)

    def item(self) -> Item:
        status = self.status
        match self.kind:
            case "thinking":
                return reasoning_item(self.id, self.written)
            case "call":
                return call_item(self.id, self.call_id, self.name, self.written, status)
            case "refusal":
                item = message_item(self.id, "", self.written, status)
            case _:
                item = message_item(self.id, self.written, "", status)
        return item | {"content": []} if status == "in_progress" else item


class ResponseStreamRenderer:
    """Writes the events of one response.

    Thoughts, text and refusal follow one another, tool calls may be open side by side: their ``output_index`` tells
    them apart. The end is written by :meth:`render_end`, as usage may come after the finish reason.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._response: dict[str, Any] | None = None
        self._sequence = 0
        self._items: list[_OpenItem] = []  # by output index
        self._speaking: _OpenItem | None = None
        self._calls: dict[int, _OpenItem] = {}
        self._finish: FinishReason = "stop"
        self._usage: Usage | None = None
        self._metadata: Mapping[str, Any] | None = None
        self._passed_id, self._passed_model = "", request.model
        self._passed: list[str] = []  # the text of the vendor's own events
        self._ended = False

    def render_chunk(self, chunk: Chunk, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Events for ``chunk``; a final one only says what the end will tell."""
        if chunk.wire is not None:
            return self._pass_through(chunk, chunk.wire, metadata)
        events: list[bytes] = []
        if self._response is None:
            self._begin(chunk, events)
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.thinking:
            self._say("thinking", chunk.thinking, events)
        if chunk.text:
            self._say("text", chunk.text, events)
        if chunk.refusal:
            self._say("refusal", chunk.refusal, events)
        for piece in chunk.tool_calls:
            self._call(piece, events)
        if chunk.finish_reason is not None:
            self._finish, self._metadata = chunk.finish_reason, metadata
        return b"".join(events)

    def render_end(self) -> bytes:
        """What is still open is closed, and the whole response told once more."""
        if self._ended or self._response is None:
            return b""
        events: list[bytes] = []
        if not self._items:  # a response says something, if only nothing
            self._say("text", "", events)
        self._items[-1].status = last_status(self._finish)
        self._stop_speaking(events)
        for call in self._calls.values():
            self._end_call(call, events)
        finished(self._response, [item.item() for item in self._items], self._finish, self._usage)
        if self._metadata is not None:
            self._response[METADATA_FIELD] = self._metadata
        name = "response.incomplete" if self._response["status"] == "incomplete" else "response.completed"
        events.append(self._event(name, {"response": self._response}))
        return b"".join(events)

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        """An error event; no response.completed follows. The documents have code and message at the top, the SDKs
        raise for an ``error`` object as every other endpoint's."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("error", told | msgspec.json.decode(render_error(error, request_id)))

    # ------------------------------------------------------------------ the vendor's own events

    def _pass_through(self, chunk: Chunk, wire: bytes, metadata: Mapping[str, Any] | None) -> bytes:
        """Remembers what another target would have to go on from."""
        self._sequence += wire.count(_DATA)
        self._passed_id = chunk.id or self._passed_id
        self._passed_model = chunk.model or self._passed_model
        if chunk.text:
            self._passed.append(chunk.text)
        if chunk.block is not None and (self._speaking is None or self._speaking.index != chunk.block.index):
            self._speaking = _OpenItem("text", chunk.block.kind, chunk.block.index, self._passed)
        if not chunk.final:
            return wire
        self._ended = True
        return wire if metadata is None else _with_metadata(wire, metadata)

    def _begin(self, chunk: Chunk, events: list[bytes]) -> None:
        passed = self._sequence > 0
        response_id = self._passed_id if passed else response_id_of(chunk.id)
        model = self._passed_model if passed else chunk.model or self._request.model
        self._response = response_object(response_id, model, self._request)
        if not passed:
            events.append(self._event("response.created", {"response": self._response}))
            events.append(self._event("response.in_progress", {"response": self._response}))
        elif self._speaking is not None:  # the items before the one that is open said nothing that was text
            for index in range(self._speaking.index):
                id_ = item_id(FOREIGN_REASONING, response_id, index)
                self._items.append(_OpenItem("thinking", id_, index, status="completed"))
            self._items.append(self._speaking)

    # ------------------------------------------------------------------ items

    def _say(self, kind: str, text: str, events: list[bytes]) -> None:
        speaking = self._speaking
        if speaking is None or speaking.kind != kind:
            self._stop_speaking(events)
            speaking = self._speaking = self._open(kind, FOREIGN_REASONING if kind == "thinking" else "msg", events)
            part = _PARTS[kind]("")
            added = "response.reasoning_summary_part.added" if kind == "thinking" else "response.content_part.added"
            events.append(self._about(added, speaking, {"part": part}))
        if text:
            speaking.pieces.append(text)
            logprobs: Item = {"logprobs": []} if kind == "text" else {}
            events.append(self._about(f"{_GROWS[kind]}.delta", speaking, {"delta": text} | logprobs))

    def _stop_speaking(self, events: list[bytes]) -> None:
        speaking, self._speaking = self._speaking, None
        if speaking is None:
            return
        kind, text = speaking.kind, speaking.written
        logprobs: Item = {"logprobs": []} if kind == "text" else {}
        said = {"refusal": text} if kind == "refusal" else {"text": text}
        events.append(self._about(f"{_GROWS[kind]}.done", speaking, said | logprobs))
        done = "response.reasoning_summary_part.done" if kind == "thinking" else "response.content_part.done"
        events.append(self._about(done, speaking, {"part": _PARTS[kind](text)}))
        self._done(speaking, events)

    def _call(self, piece: ToolCallDelta, events: list[bytes]) -> None:
        call = self._calls.get(piece.index)
        if call is None:
            self._stop_speaking(events)
            call = self._open("call", "fc", events, piece)
            self._calls[piece.index] = call
        if piece.arguments:
            call.pieces.append(piece.arguments)
            events.append(self._about("response.function_call_arguments.delta", call, {"delta": piece.arguments}))

    def _end_call(self, call: _OpenItem, events: list[bytes]) -> None:
        told = {"arguments": call.written or "{}", "name": call.name}
        events.append(self._about("response.function_call_arguments.done", call, told))
        self._done(call, events)

    def _open(self, kind: str, prefix: str, events: list[bytes], piece: ToolCallDelta | None = None) -> _OpenItem:
        assert self._response is not None  # noqa: S101 - begun before anything is said
        index = len(self._items)
        item = _OpenItem(kind, item_id(prefix, self._response["id"], index), index)
        if piece is not None:
            item.call_id, item.name = piece.id or "", piece.name or ""
        self._items.append(item)
        events.append(self._event("response.output_item.added", {"output_index": index, "item": item.item()}))
        return item

    def _done(self, item: _OpenItem, events: list[bytes]) -> None:
        if item.status == "in_progress":
            item.status = "completed"
        told = {"output_index": item.index, "item": item.item()}
        events.append(self._event("response.output_item.done", told))

    # ------------------------------------------------------------------ events

    def _about(self, name: str, item: _OpenItem, told: Item) -> bytes:
        place: Item = {"item_id": item.id, "output_index": item.index}
        if item.kind == "thinking":
            place["summary_index"] = 0
        elif item.kind != "call":
            place["content_index"] = 0
        return self._event(name, place | told)

    def _event(self, name: str, told: Item) -> bytes:
        event = render_event(_encode({"type": name, **told, "sequence_number": self._sequence}), name)
        self._sequence += 1
        return event


_GROWS = {
    "thinking": "response.reasoning_summary_text",
    "text": "response.output_text",
    "refusal": "response.refusal",
}
_PARTS = {
    "thinking": lambda text: {"type": "summary_text", "text": text},
    "text": text_part,
    "refusal": refusal_part,
}


def _with_metadata(wire: bytes, metadata: Mapping[str, Any]) -> bytes:
    """The vendor's closing event with the metadata at the end of its ``response``, else byte for byte."""
    head, _, payload = wire.rstrip(b"\n").rpartition(_DATA)
    response = bytes(msgspec.json.decode(payload, type=dict[str, msgspec.Raw])["response"])
    return b"%b%b%b\n\n" % (head, _DATA, payload.replace(response, splice_metadata(response, metadata), 1))
