"""Whole events of a stream that is passed through, looked at in one go."""

from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

EventT = TypeVar("EventT", bound=Struct)

_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DATA = b"\ndata: "
_BOUNDARY = b"\n\n"
_END_MARKER = b"[DONE]"


class EventReader(Generic[EventT]):
    """Reads the payloads of named events as ``event_type``: those of a block in one call, as an array.

    What is no such event is left out (None in its place) and counted in ``skipped``; a comment reads as an event that
    says nothing, and is passed on like any other.
    """

    __slots__ = ("_event", "_events", "_nothing", "skipped")

    def __init__(self, event_type: type[EventT]) -> None:
        self.skipped = 0
        self._event = msgspec.json.Decoder(event_type)
        self._events = msgspec.json.Decoder(list[event_type])  # type: ignore[valid-type]
        self._nothing = event_type

    def read(self, block: bytes) -> tuple[list[bytes], list[EventT | None]]:
        """The events' own bytes, each with its blank line, and what they say; ``block`` ends with a blank line."""
        raws = block[:-2].split(_BOUNDARY)
        payloads = [raw[raw.find(_DATA) + 7 :] if _DATA in raw else b"" for raw in raws]
        try:
            events: list[EventT | None] = list(self._events.decode(b"[%b]" % b",".join(payloads)))
        except _MALFORMED:
            events = []
        if len(events) != len(raws):
            events = [self._read_one(raw) for raw in raws]
        return [raw + _BOUNDARY for raw in raws], events

    def _read_one(self, raw: bytes) -> EventT | None:
        """One event the slow way: whatever lines it is made of."""
        lines = [line.partition(b":") for line in raw.split(b"\n")]
        data = b"\n".join(value.removeprefix(b" ") for name, _, value in lines if name == b"data")
        if not data or data == _END_MARKER:
            return self._nothing()
        try:
            return self._event.decode(data)
        except _MALFORMED:
            self.skipped += 1
            return None
