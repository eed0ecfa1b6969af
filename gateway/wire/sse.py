"""Server-sent events: cutting a byte stream into events, and writing events.

Framing follows the WHATWG rules (``\\n``, ``\\r\\n`` and ``\\r`` end a line, comments and a leading byte order
mark are ignored, data lines are joined with ``\\n``) with one leniency: an event that the end of the stream
leaves without its blank line still counts, because several vendors end that way.
"""

from msgspec import Struct

from gateway.wire.types import ParseError

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
MAX_EVENT_BYTES = 768 * 1024  # with what is on its way in and out, a stream then stays below 1 MiB

_BOM = b"\xef\xbb\xbf"
_BOUNDARY = b"\n\n"


class Event(Struct, frozen=True):
    """``name`` is the ``event:`` field; ``data`` the data lines joined with a newline."""

    name: str | None
    data: bytes


class Framer:
    """Cuts a byte stream at event boundaries, however its bytes are split.

    What comes out is text with ``\\n`` line ends only. ``max_event_bytes`` bounds one event, and so the
    memory of a stream.
    """

    __slots__ = ("_after_cr", "_max_event_bytes", "_pending", "_started")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._started = False
        self._after_cr = False

    def feed(self, data: bytes) -> bytes:
        """All whole events that ``data`` completes, each closed by a blank line; empty if there is none.

        Raises ParseError for an event larger than the limit.
        """
        if not self._started:
            data = self._skip_byte_order_mark(data)
        if self._after_cr or b"\r" in data:
            data = self._normalise_line_ends(data)
        if not self._pending:
            end = data.rfind(_BOUNDARY)
            if end >= 0:
                whole = data[: end + 2]
                self._pending += data[end + 2 :]
                self._check_sizes(whole)
                return whole
        searched = max(len(self._pending) - 1, 0)  # the boundary itself may have been split
        self._pending += data
        end = self._pending.rfind(_BOUNDARY, searched)
        if end < 0:
            self._check_pending()
            return b""
        whole = bytes(self._pending[: end + 2])
        del self._pending[: end + 2]
        self._check_sizes(whole)
        return whole

    def finish(self) -> bytes:
        """What the end of the stream leaves over, closed like an event; empty if nothing was pending."""
        rest = bytes(self._pending).strip(b"\n")
        self._pending.clear()
        return rest + _BOUNDARY if rest else b""

    def _skip_byte_order_mark(self, data: bytes) -> bytes:
        head = bytes(self._pending) + data
        self._pending.clear()
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._pending += head
            return b""
        self._started = True
        return head.removeprefix(_BOM)

    def _normalise_line_ends(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):  # second half of a \r\n whose first half already counted
            data, self._after_cr = data[1:], False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check_sizes(self, whole: bytes) -> None:
        limit = self._max_event_bytes
        if len(whole) > limit and any(len(event) > limit for event in whole.split(_BOUNDARY)):
            raise ParseError(f"A streamed event is larger than {limit} bytes.")
        self._check_pending()

    def _check_pending(self) -> None:
        limit = self._max_event_bytes
        if len(self._pending) > limit and len(self._pending) - self._pending.endswith(b"\n") > limit:
            raise ParseError(f"A streamed event is larger than {limit} bytes.")


class EventSplitter:
    """Turns a byte stream into events. Raises ParseError for an event larger than ``max_event_bytes``."""

    __slots__ = ("_framer",)

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._framer = Framer(max_event_bytes)

    def feed(self, data: bytes) -> list[Event]:
        """Events completed by ``data``."""
        return parse_events(self._framer.feed(data))

    def finish(self) -> list[Event]:
        """The event, if any, that the end of the stream completes."""
        return parse_events(self._framer.finish())


def parse_events(whole: bytes) -> list[Event]:
    """Events in bytes as :class:`Framer` yields them; comments and blocks without data give none."""
    return [event for block in whole.split(_BOUNDARY) if block and (event := _parse_event(block)) is not None]


def _parse_event(block: bytes) -> Event | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return Event(None, block[6:])
    name: str | None = None
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode(errors="replace") or None
    return Event(name, b"\n".join(data)) if data else None


def render_event(data: bytes, name: str | None = None) -> bytes:
    """One event; line breaks inside ``data`` become further data lines."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    if name is None:
        return b"data: " + data + _BOUNDARY
    return b"event: " + name.encode() + b"\ndata: " + data + _BOUNDARY
