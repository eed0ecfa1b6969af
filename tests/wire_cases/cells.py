"""The cells of the translation matrix, and what the gateway makes of one: its request, and its answer both ways."""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from gateway.errors import GatewayError
from gateway.providers import catalog
from gateway.providers.client import CALLER_FORMATS, VENDOR_FORMATS, conversation_of
from gateway.wire.types import Chunk, Request, VendorRequest
from gateway.wire.verbs import CallerFormat, StreamRenderer, VendorFormat
from tests.wire_cases.questions import BODIES, CASES, HEADERS

REQUEST_ID: Final = "req_golden"
METADATA: Final = {"request_id": REQUEST_ID}
NOW: Final = 1_800_000_000.0  # the gateway's clock; the vendors' stands at another time
GENERATED: Final = uuid.UUID("00000000-0000-4000-8000-000000000000")
MODELS: Final = {  # what a vendor's format asks of its models depends on their names in places
    "openai_chat": ("openai-compatible", "gpt-oss-120b"),
    "openai_responses": ("openai-responses", "gpt-5-mini"),
    "anthropic_messages": ("anthropic", "claude-sonnet-4-5"),
    "gemini": ("gemini", "gemini-2.5-flash"),
    "ollama": ("ollama", "qwen3:8b"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One caller's dialect on one vendor's format, in one case."""

    dialect: str
    vendor_dialect: str
    case: str

    def __str__(self) -> str:
        return f"{self.dialect}-{self.vendor_dialect}-{self.case}"

    @property
    def caller(self) -> CallerFormat:
        return CALLER_FORMATS[self.dialect]

    @property
    def vendor(self) -> VendorFormat:
        return VENDOR_FORMATS["chat"][self.vendor_dialect]

    @property
    def vendor_model(self) -> str:
        return MODELS[self.vendor_dialect][1]

    @property
    def in_lines(self) -> bool:
        """Whether the vendor streams lines of JSON."""
        return self.vendor_dialect == "ollama"

    @property
    def passed_through(self) -> bool:
        return self.dialect == self.vendor_dialect


CELLS: Final = [
    Cell(dialect, vendor_dialect, case)
    for dialect in CALLER_FORMATS
    for vendor_dialect in VENDOR_FORMATS["chat"]
    for case in CASES
    if case in BODIES[dialect]
]


@contextmanager
def at_a_fixed_time() -> Iterator[None]:
    """What the renderers would take from the clock or from chance is always the same inside."""
    with patch("time.time", return_value=NOW), patch("uuid.uuid4", return_value=GENERATED):
        yield


def ask(cell: Cell, body: bytes) -> tuple[Request, VendorRequest]:
    """The caller's request and what the vendor is sent. Raises GatewayError where the cell has no room for it."""
    request = cell.caller.parse_request(body, HEADERS[cell.dialect])
    kind = MODELS[cell.vendor_dialect][0]
    return request, cell.vendor.render_request(request, conversation_of, cell.vendor_model, catalog.get(kind).profile)


def refused(cell: Cell, error: GatewayError) -> bytes:
    return cell.caller.render_error(error, REQUEST_ID)


def answer_whole(cell: Cell, request: Request, status: int, body: bytes) -> bytes:
    """The caller's body for a vendor's answer, an error's included."""
    if status != 200:
        return refused(cell, cell.vendor.parse_error(status, {}, body))
    completion = cell.vendor.parse_completion(body, cell.passed_through)
    return cell.caller.render_completion(completion, METADATA, request)


def answer_streamed(cell: Cell, request: Request, blocks: Iterable[bytes]) -> bytes:
    """The caller's events for a vendor's, put together as the pipeline does: the chunk that says why the answer ended
    is held back for the metadata, and what follows it follows."""
    renderer = cell.caller.open_stream(request)
    events: list[bytes] = []
    held: Chunk | None = None
    after: list[Chunk] = []
    try:
        for chunk in _chunks(cell, blocks):
            if chunk.final:
                events += [] if held is None else [renderer.render_chunk(held)]
                held = chunk
            elif held is not None and chunk.usage is not None:
                after.append(chunk)
            else:
                events.append(renderer.render_chunk(chunk))
        events += _closing(renderer, held, after)
    except GatewayError as error:
        events.append(renderer.render_error(error, REQUEST_ID))
    return b"".join(events)


def _chunks(cell: Cell, blocks: Iterable[bytes]) -> Iterator[Chunk]:
    parser = cell.vendor.open_parser(cell.passed_through)
    for block in blocks:
        yield from parser.parse_chunk(block)
    yield from parser.parse_end()
    assert parser.complete, "the vendor's answer is not complete"
    assert not parser.skipped, "the vendor's stream holds what could not be read"


def _closing(renderer: StreamRenderer, held: Chunk | None, after: list[Chunk]) -> list[bytes]:
    last = [] if held is None else [renderer.render_chunk(held, METADATA)]
    return [*last, *map(renderer.render_chunk, after), renderer.render_end()]


def told_of(sent: VendorRequest) -> dict[str, Any]:
    """What a golden file says of a vendor's request beside its body."""
    told: dict[str, Any] = {"path": sent.path}
    if sent.headers:
        told["headers"] = dict(sent.headers)
    if sent.dropped:
        told["dropped"] = list(sent.dropped)
    return told
