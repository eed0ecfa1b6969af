"""The yardstick: an ASGI application that passes a body on and its answer back, with the gateway's own vendor client.

No routing, no authentication, no limits, no ledger, no look at what passes. ``BENCH_VENDOR`` is the vendor's base URL.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.providers.addresses import AddressGuard
from gateway.providers.outbound import Deadlines, OutboundRequest
from gateway.providers.transport import Transport

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 32 * 1024 * 1024
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer sk-bench"}
DEADLINES = Deadlines()

transport = Transport(AddressGuard(["127.0.0.1/32"]))
url = os.environ.get("BENCH_VENDOR", "") + "/chat/completions"


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await pass_on(receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await transport.open()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await transport.close()
    await send({"type": "lifespan.shutdown.complete"})


async def pass_on(receive: Receive, send: Send) -> None:
    """A whole answer in one piece, a stream block by block."""
    response = await transport.send(OutboundRequest(url, HEADERS, await body_of(receive)), DEADLINES)
    headers = [(b"content-type", response.headers["content-type"].encode())]
    if (length := response.headers.get("content-length")) is not None:
        body = await response.read(MAX_BODY_BYTES)
        headers.append((b"content-length", length.encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    async for block in response.blocks():
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def body_of(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body
