"""What goes to a vendor and what comes back, whoever carries it.

Two carriers speak these types: :class:`gateway.providers.transport.Transport` (sockets) and
:class:`gateway.providers.demo.DemoTransport` (in-process).
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from msgspec import Struct


class Deadlines(Struct, frozen=True):
    """How long each stage of a call may take, in seconds; all of them count, the first to pass ends the call.

    ``connect`` covers name look-up, TCP and TLS. ``first_byte`` runs from the start of the call to the first byte
    of the body, ``first_token`` to the first token of a stream (a comment or a role is none), ``between_chunks``
    from one block to the next while somebody waits for it, ``total`` from the start to the end.
    """

    connect: float = 5.0
    first_byte: float = 600.0  # a whole answer's first byte comes when all of it has been generated
    first_token: float = 60.0
    between_chunks: float = 60.0
    total: float = 600.0


class OutboundRequest(Struct, frozen=True):
    """One HTTP request. ``url`` is complete and already escaped; ``headers`` hold the vendor's key, so the
    request is never logged."""

    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    method: str = "POST"

    def __repr__(self) -> str:
        return f"OutboundRequest({self.method}, {len(self.body)} bytes)"


class Response(Protocol):
    """A vendor's answer whose status and headers have arrived."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name."""

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises ProviderError (``protocol`` when it is longer than ``limit`` bytes)."""

    def blocks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; a slow consumer slows the vendor. Raises ProviderError."""

    def first_token_seen(self) -> None:
        """A streamed answer has said something: its deadline for that is met. (A whole one has none.)"""

    def expect_end(self, within_s: float) -> None:
        """The answer is complete as its format goes: from now on wait at most ``within_s`` for more."""

    def close(self) -> None:
        """End the call at once, whatever is still on its way; does nothing after the last block."""


class Sender(Protocol):
    async def send(self, request: OutboundRequest, deadlines: Deadlines) -> Response:
        """Send and wait for the status line and headers. Raises ProviderError."""
