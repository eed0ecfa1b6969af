"""How a golden file is written: JSON for people, exact to the byte.

A body is shown as the JSON it is where that tells its very bytes (compact, as all parties write it), else as text. A
stream is a list of events: the name and the data of each, or its text where that would not be exact. Events that a
caller gets as the vendor sent them are told by their places there, ``vendor_events[0:7]``. What fits on a line stands
on one.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
_WIDTH: Final = 140  # characters
_EVENT_WIDTH: Final = 1200  # a stream reads best with an event on each line
_STREAMS: Final = ("events", "vendor_events")
_EVENT: Final = re.compile(r"(?:event: (?P<name>\S+)\n)?data: (?P<data>[{].*)")


def path_of(caller: str, vendor: str, case: str) -> Path:
    return FOLDER / caller / vendor / f"{case}.json"


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def show_body(body: bytes) -> Any:
    text = body.decode()
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if compact(value) == text else text


def read_body(shown: Any) -> bytes:
    return (shown if isinstance(shown, str) else compact(shown)).encode()


def show_stream(data: bytes, *, lines: bool) -> list[Any]:
    """The events in ``data``; ``lines``: each is a line of JSON, not a server-sent event. Raises ValueError for a
    stream that ends inside an event."""
    text, end = data.decode(), "\n" if lines else "\n\n"
    if text and not text.endswith(end):
        raise ValueError(f"the stream ends inside an event: {text[-80:]!r}")
    return [show_body(event.encode()) if lines else _event(event) for event in text.split(end)[:-1]]


def _event(text: str) -> Any:
    found = _EVENT.fullmatch(text)
    if found is None or isinstance(data := show_body(found["data"].encode()), str):
        return text
    return {"event": found["name"], "data": data} if found["name"] else {"data": data}


def with_references(events: list[Any], vendor_events: list[Any]) -> list[Any]:
    """``events`` with each run of the vendor's own, in their order, as one reference."""
    shown: list[Any] = []
    at = place = 0
    while at < len(events):
        if events[at] not in vendor_events[place:]:
            shown.append(events[at])
            at += 1
            continue
        start = place = vendor_events.index(events[at], place)
        while events[at : at + 1] == vendor_events[place : place + 1] != []:
            at, place = at + 1, place + 1
        shown.append(f"vendor_events[{start}:{place}]")
    return shown


def read_stream(shown: list[Any], *, lines: bool) -> bytes:
    if lines:
        return b"".join(read_body(line) + b"\n" for line in shown)
    return b"".join(_text_of(event).encode() + b"\n\n" for event in shown)


def _text_of(event: Any) -> str:
    if isinstance(event, str):
        return event
    name = f"event: {event['event']}\n" if "event" in event else ""
    return f"{name}data: {compact(event['data'])}"


def written(value: Any, indent: str = "", width: int = _WIDTH) -> str:
    """``value`` as JSON text, broken into lines where it is too wide for one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= width or not isinstance(value, dict | list) or not value:
        return line
    deeper = indent + " "
    if isinstance(value, dict):
        widths = {name: _EVENT_WIDTH if name in _STREAMS else width for name in value}
        inner = [f"{json.dumps(name)}: {written(item, deeper, widths[name])}" for name, item in value.items()]
        opening, closing = "{", "}"
    else:
        inner = [written(item, deeper, width) for item in value]
        opening, closing = "[", "]"
    broken = ",\n".join(deeper + item for item in inner)
    return f"{opening}\n{broken}\n{indent}{closing}"
