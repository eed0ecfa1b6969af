"""A Redis that many tests use, one after the other."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from tests import redis_server
from tests.redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_redis_server() -> Iterator[RedisServer]:
    """For tests that leave the server alone."""
    with redis_server.running() as server:
        yield server


@pytest.fixture
async def redis(shared_redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of an empty database."""
    client = shared_redis_server.client()
    await client.flushall()
    yield client
    await client.aclose()
