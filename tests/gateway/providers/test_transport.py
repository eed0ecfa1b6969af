"""What any transport to vendors must do; a replacement of the HTTP client has to pass these as they are."""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.errors import ProviderError
from gateway.providers.addresses import AddressGuard
from gateway.providers.outbound import Deadlines, OutboundRequest
from gateway.providers.transport import MAX_HEADERS, Transport

from .vendor_server import Call, Vendor, tls_context, vendor_server, write_certificate

LIMIT = 1 << 20


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport(AddressGuard(["127.0.0.1/32"])) as opened:
        yield opened


def request(vendor: Vendor, path: str = "/v1/chat/completions", body: bytes = b"{}") -> OutboundRequest:
    return OutboundRequest(vendor.url + path, {"Content-Type": "application/json"}, body)


async def error_of(work: Awaitable[object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await work
    assert "127.0.0.1" not in caught.value.message
    assert "http" not in caught.value.message.lower().replace("valid http", "")
    return caught.value


def always(data: bytes) -> Callable[[Call], Awaitable[None]]:
    async def handler(call: Call) -> None:
        await call.write(data)
        call.writer.close()

    return handler


# --------------------------------------------------------------------------- whole answers


async def test_sends_the_request_as_given_and_reads_the_answer(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b'{"ok":true}')

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor, body=b'{"model":"m"}'), Deadlines())
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert await response.read(LIMIT) == b'{"ok":true}'

    sent = vendor.calls[0]
    assert sent.request_line == "POST /v1/chat/completions HTTP/1.1"
    assert sent.body == b'{"model":"m"}'
    assert sent.headers["accept-encoding"] == "identity"
    assert "cookie" not in sent.headers


async def test_sends_an_escaped_path_untouched(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"{}")

    async with vendor_server(handler) as vendor:
        await (await transport.send(request(vendor, "/models/a%2Fb%3Ac:run?alt=sse"), Deadlines())).read(LIMIT)
    assert vendor.calls[0].request_line == "POST /models/a%2Fb%3Ac:run?alt=sse HTTP/1.1"


async def test_reuses_a_connection_that_was_read_to_the_end(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"{}")

    async with vendor_server(handler) as vendor:
        for _ in range(5):
            await (await transport.send(request(vendor), Deadlines())).read(LIMIT)
    assert (vendor.connections, len(vendor.calls)) == (1, 5)


async def test_does_not_reuse_a_connection_that_was_closed_early(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await call.until_closed()

    async with vendor_server(handler) as vendor:
        for _ in range(2):
            (await transport.send(request(vendor), Deadlines())).close()
    assert vendor.connections == 2


async def test_keeps_no_cookies(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}")

    async with vendor_server(handler) as vendor:
        for _ in range(2):
            await (await transport.send(request(vendor), Deadlines())).read(LIMIT)
    assert "cookie" not in vendor.calls[1].headers


async def test_does_not_follow_redirects(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        assert response.status == 307
        await response.read(LIMIT)
    assert len(vendor.calls) == 1


async def test_ignores_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch, transport: Transport) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def handler(call: Call) -> None:
        await call.answer(b"{}")

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        assert await response.read(LIMIT) == b"{}"


async def test_refuses_an_answer_beyond_the_limit_and_hangs_up(transport: Transport) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream("application/json")
        with suppress(ConnectionError):
            for _ in range(100):
                await call.chunk(b"x" * 10_000)
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        assert (await error_of(response.read(50_000))).kind == "protocol"
        await asyncio.wait_for(closed.wait(), 0.5)


# --------------------------------------------------------------------------- streams


async def test_yields_blocks_as_they_arrive(transport: Transport) -> None:
    go_on = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await go_on.wait()
        await call.chunk(b"data: 2\n\n")
        await call.end_stream()

    async with vendor_server(handler) as vendor:
        blocks = (await transport.send(request(vendor), Deadlines())).blocks()
        assert await anext(blocks) == b"data: 1\n\n"
        go_on.set()
        assert b"".join([block async for block in blocks]) == b"data: 2\n\n"


async def test_a_slow_reader_slows_the_vendor(transport: Transport) -> None:
    sent = 0

    async def handler(call: Call) -> None:
        nonlocal sent
        call.writer.transport.set_write_buffer_limits(high=0)
        call.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await call.start_stream()
        for _ in range(4000):
            await call.chunk(b"x" * 16_384)
            sent += 16_384
        await call.end_stream()

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        blocks = response.blocks()
        received = len(await anext(blocks))
        await asyncio.sleep(0.5)
        held = sent - received
        await asyncio.sleep(0.3)
        assert sent - received == held, "the vendor was still being read"
        assert held < 12 * 1024 * 1024, "kernel buffers and ours together; 64 MiB were on offer"
        async for block in blocks:
            received += len(block)
    assert received == 4000 * 16_384


# --------------------------------------------------------------------------- hanging up


async def test_a_cancelled_call_before_headers_closes_the_connection_at_once(transport: Transport) -> None:
    closed = asyncio.Event()
    arrived = asyncio.Event()

    async def handler(call: Call) -> None:
        arrived.set()
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        task = asyncio.create_task(transport.send(request(vendor), Deadlines()))
        await asyncio.wait_for(arrived.wait(), 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 0.5)


async def test_a_cancelled_call_stops_sending_a_body_the_vendor_does_not_take(transport: Transport) -> None:
    connected = asyncio.Event()
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        connected.set()
        await asyncio.sleep(0.3)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        with suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        vendor = Vendor(server.sockets[0].getsockname()[1])
        big = request(vendor, body=b"x" * 900_000 * 10)
        task = asyncio.create_task(transport.send(big, Deadlines()))
        await asyncio.wait_for(connected.wait(), 2)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 0.8)


async def test_a_cancelled_reader_closes_the_connection_at_once(transport: Transport) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        blocks = (await transport.send(request(vendor), Deadlines())).blocks()
        await anext(blocks)
        task = asyncio.ensure_future(anext(blocks))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 0.5)


async def test_close_in_the_middle_of_a_stream_closes_the_connection_at_once(transport: Transport) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        await anext(response.blocks())
        response.close()
        await asyncio.wait_for(closed.wait(), 0.5)


# --------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "vendor.pem")


async def test_a_certificate_nobody_vouches_for_is_a_connect_error(transport: Transport, certificate: Path) -> None:
    async with vendor_server(silence, tls_context(certificate)) as vendor:
        secure = OutboundRequest(f"https://127.0.0.1:{vendor.port}/", {})
        assert (await error_of(transport.send(secure, Deadlines()))).kind == "connect"
    assert vendor.calls == []


async def test_hanging_up_over_tls_does_not_wait_for_a_goodbye(certificate: Path) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await call.until_closed()
        closed.set()

    trusting = ssl.create_default_context(cafile=str(certificate))
    guard = AddressGuard(["127.0.0.1/32"])
    async with vendor_server(handler, tls_context(certificate)) as vendor, Transport(guard, trusting) as secure:
        response = await secure.send(OutboundRequest(f"https://127.0.0.1:{vendor.port}/", {}), Deadlines())
        blocks = response.blocks()
        await anext(blocks)
        task = asyncio.ensure_future(anext(blocks))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 0.5)


# --------------------------------------------------------------------------- what goes wrong


async def test_a_refused_connection_is_a_connect_error(transport: Transport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        vendor = Vendor(unused.getsockname()[1])
        assert (await error_of(transport.send(request(vendor), Deadlines()))).kind == "connect"


async def test_a_name_that_does_not_exist_is_a_connect_error(transport: Transport) -> None:
    nowhere = OutboundRequest("https://nowhere.invalid/v1", {})
    assert (await error_of(transport.send(nowhere, Deadlines()))).kind == "connect"


async def test_a_vendor_that_hangs_up_without_an_answer_is_a_reset(transport: Transport) -> None:
    async with vendor_server(always(b"")) as vendor:
        assert (await error_of(transport.send(request(vendor), Deadlines()))).kind == "reset"


async def test_a_reset_in_the_middle_of_a_stream_is_an_error(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.05)
        linger_none = struct.pack("ii", 1, 0)
        call.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
        call.writer.transport.abort()

    async with vendor_server(handler) as vendor:
        blocks = (await transport.send(request(vendor), Deadlines())).blocks()
        assert await anext(blocks) == b"data: 1\n\n"
        assert (await error_of(anext(blocks))).kind == "reset"


async def test_a_chunked_body_that_is_cut_is_an_error_not_an_end(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.05)
        call.writer.close()

    async with vendor_server(handler) as vendor:
        blocks = (await transport.send(request(vendor), Deadlines())).blocks()
        assert await anext(blocks) == b"data: 1\n\n"
        assert (await error_of(anext(blocks))).kind == "reset"


async def test_a_body_shorter_than_its_content_length_is_an_error(transport: Transport) -> None:
    async with vendor_server(always(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":')) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        assert (await error_of(response.read(LIMIT))).kind == "reset"


@pytest.mark.parametrize(
    "answer",
    [
        b"this is not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(MAX_HEADERS + 50)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    ],
    ids=["garbage", "giant-header", "giant-status-line", "too-many-headers", "two-lengths"],
)
async def test_malformed_http_is_a_protocol_error(transport: Transport, answer: bytes) -> None:
    async with vendor_server(always(answer)) as vendor:
        assert (await error_of(transport.send(request(vendor), Deadlines()))).kind == "protocol"


async def test_malformed_chunks_are_a_protocol_error(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.05)
        await call.write(b"not a size\r\ndata\r\n")
        await call.until_closed()

    async with vendor_server(handler) as vendor:
        blocks = (await transport.send(request(vendor), Deadlines())).blocks()
        await anext(blocks)
        assert (await error_of(anext(blocks))).kind == "protocol"


# --------------------------------------------------------------------------- deadlines


async def silence(call: Call) -> None:
    await call.until_closed()


async def test_the_connect_deadline_ends_a_connection_that_is_never_accepted(transport: Transport) -> None:
    with socket.socket() as full:  # a backlog of one that nobody takes from: further connections wait
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        vendor = Vendor(full.getsockname()[1])
        started = time.monotonic()
        error = await error_of(transport.send(request(vendor), Deadlines(connect=0.2)))
        assert (error.kind, time.monotonic() - started < 1) == ("timeout", True)
        for client in waiting:
            client.close()


async def test_the_first_byte_deadline_ends_a_call_without_headers(transport: Transport) -> None:
    async with vendor_server(silence) as vendor:
        started = time.monotonic()
        assert (await error_of(transport.send(request(vendor), Deadlines(first_byte=0.2)))).kind == "timeout"
        assert 0.15 < time.monotonic() - started < 0.7


async def test_the_first_token_deadline_counts_on_after_the_headers(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await asyncio.sleep(0.2)
        await call.start_stream()
        await call.until_closed()

    async with vendor_server(handler) as vendor:
        started = time.monotonic()
        response = await transport.send(request(vendor), Deadlines(first_token=0.4))
        assert (await error_of(anext(response.blocks()))).kind == "timeout"
        assert 0.35 < time.monotonic() - started < 0.9


async def chatter(call: Call) -> None:
    """Bytes all the time, and nothing said."""
    await call.start_stream()
    for _ in range(30):
        await call.chunk(b": ping\n\n")
        await asyncio.sleep(0.05)
    await call.end_stream()


async def test_comments_do_not_meet_the_first_token_deadline(transport: Transport) -> None:
    async with vendor_server(chatter) as vendor:
        started = time.monotonic()
        response = await transport.send(request(vendor), Deadlines(first_token=0.4))

        async def read_all() -> None:
            async for _ in response.blocks():
                pass

        assert (await error_of(read_all())).kind == "timeout"
        assert 0.35 < time.monotonic() - started < 1.4


async def test_after_the_first_token_only_the_time_between_chunks_counts(transport: Transport) -> None:
    async with vendor_server(chatter) as vendor:
        response = await transport.send(request(vendor), Deadlines(first_token=0.4))
        blocks = response.blocks()
        received = len(await anext(blocks))
        response.first_token_seen()
        async for block in blocks:
            received += len(block)
        assert received == 30 * len(b": ping\n\n")


async def test_a_whole_answer_has_no_first_token(transport: Transport) -> None:
    async with vendor_server(chatter) as vendor:
        response = await transport.send(request(vendor), Deadlines(first_token=0.4))
        assert len(await response.read(1000)) == 30 * len(b": ping\n\n")


async def test_the_deadline_between_chunks_ends_a_stalled_stream_and_hangs_up(transport: Transport) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        for _ in range(3):
            await call.chunk(b"data: 1\n\n")
            await asyncio.sleep(0.15)
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines(between_chunks=0.3))
        blocks = response.blocks()
        assert [await anext(blocks) for _ in range(3)] == [b"data: 1\n\n"] * 3
        started = time.monotonic()
        assert (await error_of(anext(blocks))).kind == "timeout"
        assert 0.2 < time.monotonic() - started < 0.8
        await asyncio.wait_for(closed.wait(), 0.5)


async def test_the_deadline_between_chunks_does_not_count_the_consumers_own_time(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.5)
        await call.chunk(b"data: 2\n\n")
        await call.end_stream()

    async with vendor_server(handler) as vendor:
        blocks = (await transport.send(request(vendor), Deadlines(between_chunks=0.2))).blocks()
        await anext(blocks)
        await asyncio.sleep(0.7)
        assert await anext(blocks) == b"data: 2\n\n"


async def test_the_total_deadline_ends_a_stream_that_never_stalls(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        while True:
            await call.chunk(b"data: 1\n\n")
            await asyncio.sleep(0.02)

    async def consume(vendor: Vendor) -> None:
        response = await transport.send(request(vendor), Deadlines(total=0.5))
        async for _ in response.blocks():
            pass

    async with vendor_server(handler) as vendor:
        started = time.monotonic()
        assert (await error_of(consume(vendor))).kind == "timeout"
        assert 0.4 < time.monotonic() - started < 1


async def test_the_total_deadline_frees_the_vendor_of_a_consumer_that_never_comes_back(transport: Transport) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: 1\n\n")
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines(total=0.3))
        blocks = response.blocks()
        await anext(blocks)
        await asyncio.wait_for(closed.wait(), 1)
        assert (await error_of(anext(blocks))).kind == "timeout"


async def test_expect_end_shortens_the_wait_of_a_finished_answer(transport: Transport) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b"data: [DONE]\n\n")
        await call.until_closed()

    async with vendor_server(handler) as vendor:
        response = await transport.send(request(vendor), Deadlines())
        blocks = response.blocks()
        await anext(blocks)
        response.expect_end(0.2)
        started = time.monotonic()
        assert (await error_of(anext(blocks))).kind == "timeout"
        assert time.monotonic() - started < 0.7


# --------------------------------------------------------------------------- the guard


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "127.1", "2130706433", "0x7f000001", "[::ffff:7f00:1]"]
)
async def test_a_private_address_is_never_connected_to(host: str) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"{}")

    async with vendor_server(handler) as vendor, Transport(AddressGuard()) as guarded:
        for scheme in ("http", "https"):
            url = f"{scheme}://{host}:{vendor.port}/"
            assert (await error_of(guarded.send(OutboundRequest(url, {}), Deadlines()))).kind == "connect"
    assert vendor.connections == 0


async def test_a_name_that_leads_to_a_private_address_is_never_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"{}")

    async with vendor_server(handler) as vendor, Transport(AddressGuard()) as guarded:

        async def rebound(*_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", vendor.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebound)
        request_ = OutboundRequest(f"https://vendor.example:{vendor.port}/", {})
        assert (await error_of(guarded.send(request_, Deadlines()))).message == "The provider's address is not allowed."
    assert vendor.connections == 0


async def test_a_listed_host_name_is_connected_to() -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"{}")

    async with vendor_server(handler) as vendor, Transport(AddressGuard([f"localhost:{vendor.port}"])) as listed:
        response = await listed.send(OutboundRequest(f"http://localhost:{vendor.port}/", {}), Deadlines())
        assert await response.read(LIMIT) == b"{}"


async def test_sending_through_a_transport_that_is_not_open_is_a_programming_error() -> None:
    with pytest.raises(RuntimeError):
        await Transport(AddressGuard()).send(OutboundRequest("https://vendor.example/", {}), Deadlines())
