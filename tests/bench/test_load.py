"""The load generator against the vendor itself and against servers that answer something else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench import vendor
from bench.load import Job, WrongAnswer, check_stream, check_whole, percentile, perform

CHUNKS = 5
EVENT = b'data: {"choices": [{"delta": {"content": " token"}}]}\n\n'
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"


class Refuser(asyncio.Protocol):
    """Answers every request with 429."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(REFUSAL)


class Cutter(Refuser):
    """Closes the connection in the middle of its answer."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(REFUSAL[:-1])
        self.transport.close()


@asynccontextmanager
async def listening(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def vendor_port() -> AsyncIterator[int]:
    answers = vendor.FixedAnswers(CHUNKS)
    async with listening(lambda: vendor.Connection(answers)) as port:
        yield port


@pytest.mark.parametrize(("model", "chunks"), [("fixed", 0), ("burst", CHUNKS), ("paced", CHUNKS)])
async def test_measures_each_kind_of_answer_of_the_vendor(vendor_port: int, model: str, chunks: int) -> None:
    result = await perform(Job(vendor_port, "t", model, connections=3, requests=10, chunks=chunks))
    assert 0 < result.p50_ms <= result.p99_ms <= result.seconds * 1000


async def test_paced_chunks_come_apart_in_time(vendor_port: int) -> None:
    result = await perform(Job(vendor_port, "t", "paced", connections=1, requests=1, chunks=CHUNKS))
    assert result.p50_ms >= vendor.GAP_S * CHUNKS * 1000


async def test_fails_when_a_stream_has_another_number_of_chunks(vendor_port: int) -> None:
    with pytest.raises(WrongAnswer, match=f"{CHUNKS} chunks instead of {CHUNKS + 1}"):
        await perform(Job(vendor_port, "t", "burst", connections=2, requests=4, chunks=CHUNKS + 1))


async def test_fails_on_a_status_that_is_not_200() -> None:
    async with listening(Refuser) as port:
        with pytest.raises(WrongAnswer, match="status 429"):
            await perform(Job(port, "t", "fixed", connections=2, requests=4))


async def test_fails_when_the_connection_is_closed_before_the_answer_is_whole() -> None:
    async with listening(Cutter) as port:
        with pytest.raises(WrongAnswer, match="closed the connection"):
            await perform(Job(port, "t", "fixed", connections=2, requests=4))


def test_refuses_another_text_than_the_vendors() -> None:
    with pytest.raises(WrongAnswer, match="not the vendor's text"):
        check_whole(b'{"choices": [{"message": {"content": "something else"}}]}')


def test_refuses_a_stream_without_its_end_marker() -> None:
    check_stream(EVENT * 2 + b"data: [DONE]\n\n", 2)
    with pytest.raises(WrongAnswer, match="no end marker"):
        check_stream(EVENT * 2, 2)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentile_is_the_value_that_share_does_not_exceed(share: float, value: int) -> None:
    assert percentile(range(100, 0, -1), share) == value
