"""The guarded way out: the one module that opens connections to vendors.

aiohttp stands behind :class:`Transport` alone, and the tests of this module say what a replacement must do:
a cancelled call closes the vendor's connection at once, a slow consumer slows the vendor, every stage has a
deadline, a cut answer is an error, redirects stay unfollowed, and no address is reached that
:class:`~gateway.providers.addresses.AddressGuard` refuses.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import NoReturn, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.errors import ProviderError
from gateway.providers.addresses import AddressGuard, ForbiddenAddress
from gateway.providers.outbound import Deadlines, OutboundRequest

READ_BUFFER_BYTES = 64 * 1024  # per call; the socket is left unread beyond twice that
MAX_HEADER_LINE_BYTES = 8 * 1024
MAX_HEADERS = 128
KEEP_ALIVE_S = 15.0
DNS_CACHE_S = 30
_CHECKED_URLS = 4096
_TICK_S = 1.0  # how soon a broken connection is noticed whose reader was not told


class Transport:
    """Connections to vendors, pooled per origin; one per event loop.

    Open it with :meth:`open` (or ``async with``) and close it with :meth:`close`. ``tls`` replaces the
    system's trust store, where a vendor's certificate comes from a private authority.
    """

    def __init__(self, guard: AddressGuard, tls: ssl.SSLContext | None = None) -> None:
        self._guard = guard
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._checked: dict[str, URL] = {}

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_GuardedResolver(self._guard),
                ssl=self._tls or True,
                ttl_dns_cache=DNS_CACHE_S,
                keepalive_timeout=KEEP_ALIVE_S,
                limit=0,  # the gateway's own limits say how many calls may run
            ),
            response_class=_AbortingResponse,
            cookie_jar=aiohttp.DummyCookieJar(),
            # identity: a compressed answer would have to be unpacked before it could be passed on, and could
            # unpack to any size.
            headers={"User-Agent": "pointsman", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_HEADER_LINE_BYTES,
            max_field_size=MAX_HEADER_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def send(self, request: OutboundRequest, deadlines: Deadlines) -> "SocketResponse":
        """Send and wait for the status line and headers.

        Raises ProviderError with kind ``timeout``, ``connect``, ``reset`` or ``protocol``. Cancelling the
        awaiting task closes the connection at once.
        """
        if self._session is None:
            raise RuntimeError("The transport is not open.")
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            url = self._checked.get(request.url) or self._check(request.url)
            async with asyncio.timeout_at(started_at + min(deadlines.first_byte, deadlines.total)):
                response = await self._session.request(
                    request.method,
                    url,
                    data=request.body or None,
                    headers=request.headers,
                    allow_redirects=False,
                    timeout=_client_timeout(deadlines.connect),
                )
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            _raise_provider_error(exc)
        return SocketResponse(response, deadlines, started_at, loop)

    def _check(self, url: str) -> URL:
        """The guard judges the very parts the connection will be made to, so two parsers cannot disagree."""
        parsed = URL(url, encoded=True)
        self._guard.check_origin(
            parsed.scheme, parsed.host or "", parsed.explicit_port, has_user_info="@" in parsed.raw_authority
        )
        if len(self._checked) >= _CHECKED_URLS:
            self._checked.clear()
        self._checked[url] = parsed
        return parsed


class SocketResponse:
    """A :class:`~gateway.providers.outbound.Response` that comes off a socket.

    One timer watches the body: it ticks, asks what is due, and goes on, so that receiving a block costs no
    timer work.
    """

    __slots__ = (
        "_between_s",
        "_first_at",
        "_headers",
        "_loop",
        "_response",
        "_timer",
        "_token_at",
        "_total_at",
        "_waiting_since",
        "status",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        deadlines: Deadlines,
        started_at: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.status = response.status
        self._response = response
        self._headers: Mapping[str, str] | None = None
        self._loop = loop
        self._between_s = deadlines.between_chunks
        self._first_at: float | None = started_at + deadlines.first_byte
        self._token_at: float | None = started_at + deadlines.first_token
        self._total_at = started_at + deadlines.total
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name; of a repeated header the last one counts."""
        if self._headers is None:
            self._headers = {name.lower(): value for name, value in self._response.headers.items()}
        return self._headers

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises ProviderError (``protocol`` when it is longer than ``limit`` bytes)."""
        blocks: list[bytes] = []
        size = 0
        self._token_at = None
        async for block in self:
            blocks.append(block)
            size += len(block)
            if size > limit:
                self.close()
                raise ProviderError("The provider's answer is too large.", kind="protocol")
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def blocks(self) -> AsyncIterator[bytes]:
        """The body as it comes off the socket. Raises ProviderError; cancelling closes the connection."""
        self._set_timer()  # even a consumer that never comes back does not outlast the total
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        content = self._response.content
        try:
            block = content.read_nowait()
            if not block and not content.at_eof():
                self._waiting_since = self._loop.time()
                self._set_timer()
                block = await content.readany()
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            self.close()
            _raise_provider_error(exc)
        except BaseException:
            self.close()
            raise
        self._waiting_since = None
        if not block:
            self.close()
            raise StopAsyncIteration
        if self._first_at is not None:
            self._first_at = None
            self._reset_timer()
        return block

    def first_token_seen(self) -> None:
        """A streamed answer has said something: its deadline for that is met."""
        self._token_at = None

    def expect_end(self, within_s: float) -> None:
        """The answer is complete as its format goes: from now on wait at most ``within_s`` for more."""
        self._between_s = min(self._between_s, within_s)
        self._reset_timer()

    def close(self) -> None:
        """End the call: the connection is aborted unless the answer was read to its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._response.close()

    def _set_timer(self) -> None:
        if self._timer is None:
            now = self._loop.time()
            self._timer = self._loop.call_at(min(self._due_at(now), now + _TICK_S), self._on_timer)

    def _reset_timer(self) -> None:
        """A deadline has come nearer: a running timer would notice too late."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._set_timer()

    def _due_at(self, now: float) -> float:
        if self._first_at is not None:
            return min(self._total_at, self._first_at, self._token_at or self._total_at)
        # Between chunks only a wait counts: a consumer may take its time with what has arrived.
        due = min(self._total_at, (self._waiting_since or now) + self._between_s)
        return due if self._token_at is None else min(due, self._token_at)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        content, connection = self._response.content, self._response.connection
        if self._due_at(now) <= now:
            content.set_exception(TimeoutError())  # wakes whoever waits, or meets the next to read
            self._response.close()
        elif connection is not None and connection.closed and content.exception() is None:
            # The client library closes the connection over a malformed chunk, but tells no reader.
            content.set_exception(_MalformedBody())
            self._response.close()
        else:
            self._set_timer()


class _MalformedBody(aiohttp.ClientError):
    """The body's framing is not HTTP."""


class _AbortingResponse(aiohttp.ClientResponse):
    """Closes without ceremony: no flushing of an unsent body, no TLS goodbye that waits for its answer."""

    def close(self) -> None:
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        super().close()


class _GuardedResolver(AbstractResolver):
    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._guard.resolve(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


@lru_cache(maxsize=256)
def _client_timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)


def _raise_provider_error(exc: Exception) -> NoReturn:
    """What the client library reports, in our words: the originals name hosts and addresses."""
    match exc:
        case ForbiddenAddress():
            raise ProviderError("The provider's address is not allowed.", kind="connect") from exc
        case TimeoutError():  # before OSError and ClientError, whose subclass it may be
            raise ProviderError("The provider did not answer in time.", kind="timeout") from exc
        case ValueError():
            raise ProviderError("The provider's address is not valid.", kind="connect") from exc
        case aiohttp.ClientConnectorError():
            raise ProviderError("The provider could not be reached.", kind="connect") from exc
        case aiohttp.ClientPayloadError():
            raise ProviderError("The provider's answer broke off.", kind="reset") from exc
        case aiohttp.ClientConnectionError() | OSError():
            raise ProviderError("The provider closed the connection.", kind="reset") from exc
        case _:
            raise ProviderError("The provider's answer is not valid HTTP.", kind="protocol") from exc
