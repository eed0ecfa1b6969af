"""One cell as its golden file tells it: asked, sent, answered by the vendor, answered to the caller; whole and streamed.

What the caller asks and what the vendor answers is given; everything between is the gateway's doing.
"""

from dataclasses import dataclass
from typing import Any

from gateway.errors import GatewayError
from tests.wire_cases.cells import Cell, answer_streamed, answer_whole, ask, at_a_fixed_time, refused, told_of
from tests.wire_cases.golden import read_body, read_stream, show_body, show_stream, with_references

Shown = dict[str, Any]


@dataclass(frozen=True, slots=True)
class VendorAnswer:
    """``body`` is all that comes back: of a stream, all its events."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Given:
    """One way of a cell, whole or streamed; ``vendor`` is None where nothing is sent."""

    asked: bytes
    vendor: VendorAnswer | None


def transcribe(cell: Cell, whole: Given, streamed: Given) -> Shown:
    """The content of the cell's golden file."""
    with at_a_fixed_time():
        in_one = _transcript(cell, whole, streamed=False)
        in_events = _transcript(cell, streamed, streamed=True)
    for name in ("asked", "sent"):
        if name in in_one:
            in_events[name] = _shortened(in_events[name], in_one[name]["body"])
    title = {"caller": cell.dialect, "vendor": cell.vendor_dialect, "case": cell.case}
    return {**title, "whole": in_one, "streamed": in_events}


def _transcript(cell: Cell, given: Given, *, streamed: bool) -> Shown:
    shown: Shown = {"asked": {"body": show_body(given.asked)}}
    try:
        request, sent = ask(cell, given.asked)
    except GatewayError as error:
        shown["refused"] = {"status": error.status, "code": error.code}
        return {**shown, "answer": show_body(refused(cell, error))}
    shown["sent"] = {**told_of(sent), "body": show_body(sent.body)}
    assert given.vendor is not None, "what is sent is answered"
    status, body = given.vendor.status, given.vendor.body
    if streamed and status == 200:
        shown["vendor_events"] = show_stream(body, lines=cell.in_lines)
        events = show_stream(answer_streamed(cell, request, [body]), lines=False)
        return {**shown, "events": with_references(events, shown["vendor_events"])}
    shown["vendor_answer"] = {"status": status, "body": show_body(body)}
    return {**shown, "answer": show_body(answer_whole(cell, request, status, body))}


def _shortened(request: Shown, whole: Shown) -> Shown:
    """A streamed ``request``, told by what its body has ``besides`` that of the ``whole`` one where that is exact."""
    body = request["body"]
    besides = {name: value for name, value in body.items() if whole.get(name, ...) != value}
    if read_body(whole | besides) != read_body(body):
        return request
    return {**{name: told for name, told in request.items() if name != "body"}, "besides": besides}


def given_in(cell: Cell, shown: Shown, way: str) -> Given:
    """What was given for the transcript of one way, read back from its golden file."""
    told = shown[way]
    vendor: VendorAnswer | None = None
    if "vendor_events" in told:
        vendor = VendorAnswer(200, read_stream(told["vendor_events"], lines=cell.in_lines))
    elif "vendor_answer" in told:
        vendor = VendorAnswer(told["vendor_answer"]["status"], read_body(told["vendor_answer"]["body"]))
    return Given(read_body(_body(shown, way, "asked")), vendor)


def sent_body(shown: Shown, way: str) -> bytes:
    """What the vendor got, by a golden file."""
    return read_body(_body(shown, way, "sent"))


def _body(shown: Shown, way: str, name: str) -> Any:
    request = shown[way][name]
    return request["body"] if "body" in request else shown["whole"][name]["body"] | request["besides"]
