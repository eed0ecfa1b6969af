"""The verbs of a wire format, the same in each module of this package.

Toward callers (:class:`CallerFormat`): ``parse_request render_completion render_chunk render_error``.
Toward vendors (:class:`VendorFormat`): ``render_request parse_completion parse_chunk parse_error``.
Streams have state (a split event, an open tool call), so their verbs are methods of a per-stream object.

Where caller and vendor speak the same format the bytes are *passed through*: fields the gateway does not
know, key order and number formatting reach the other side untouched, and nothing is translated.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from gateway.errors import GatewayError, ProviderError
from gateway.wire.types import Chunk, Completion, Conversation, Request, VendorProfile, VendorRequest


class StreamRenderer(Protocol):
    """Writes one answer as a caller's server-sent events."""

    def render_chunk(self, chunk: Chunk, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Events for ``chunk`` ("" when the caller sees nothing of it); ``metadata`` goes on the final one.

        Chunks with the vendor's own bytes may be followed by translated ones: another target then completes the
        answer (a rescue). They go on in the same message, under the same id, where the bytes left off.
        """

    def render_end(self) -> bytes:
        """What closes a complete stream (``data: [DONE]`` in OpenAI's)."""

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        """The dialect's error event: ends a stream that cannot be completed; no end marker follows."""


class CallerFormat(Protocol):
    """``render_completion`` and the stream's final chunk carry ``metadata`` where the dialect has room for it; the
    Anthropic dialect has none (it is told in headers)."""

    DIALECT: str

    def parse_request(self, body: bytes, headers: Mapping[str, str]) -> Request:
        """Bytes to a request; header names are lower-case. Raises InvalidRequest."""

    def parse_conversation(self, request: Request) -> Conversation:
        """The canonical content of a request, memoised on it. Raises InvalidRequest."""

    def render_completion(self, completion: Completion, metadata: Mapping[str, Any] | None, request: Request) -> bytes:
        """A whole answer; ``request`` is for the dialects that repeat its settings in it."""

    def open_stream(self, request: Request) -> StreamRenderer: ...

    def render_error(self, error: GatewayError, request_id: str) -> bytes: ...


class StreamParser(Protocol):
    """Reads one vendor stream, however its bytes are split."""

    def parse_chunk(self, data: bytes) -> list[Chunk]:
        """Chunks completed by ``data``. Raises ProviderError for an error event, ParseError for garbage."""

    def parse_end(self) -> list[Chunk]:
        """What the vendor's closing of the connection completes."""

    @property
    def skipped(self) -> int:
        """Malformed events that were left out so far."""

    @property
    def complete(self) -> bool:
        """True once the vendor has said that the answer is finished (a finish reason, an end marker)."""


class ConversationOf(Protocol):
    def __call__(self, request: Request) -> Conversation: ...


class VendorFormat(Protocol):
    DIALECT: str

    def render_request(
        self, request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
    ) -> VendorRequest:
        """What to send; ``conversation`` is called only where a translation is needed. Raises UnsupportedContent."""

    def parse_completion(self, body: bytes, passthrough: bool) -> Completion:
        """A whole answer. Raises ParseError (not this format) or ProviderError (an error in a 200)."""

    def open_parser(self, passthrough: bool) -> StreamParser: ...

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | GatewayError:
        """A vendor's refusal as ours: a caller's own mistake keeps its status (400, 413, 422 ...), everything
        else is a ProviderError. Messages carry nothing that identifies our account at the vendor."""
