"""The health of targets: shared between processes through a real Redis, and kept without it."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from django.conf import settings

from gateway.errors import ProviderError
from gateway.providers import health
from gateway.providers.breaker import BreakerRules
from gateway.providers.health import SharedCircuit, TargetHealth, reset_by_hand, tripped_by_hand, write_shared
from tests.redis_server import RedisServer

DOWN = ProviderError("down", vendor_status=503)
QUICK = BreakerRules(cool_down_s=0.2, longest_cool_down_s=0.4)


@pytest.fixture
async def shared() -> AsyncIterator[redis.asyncio.Redis]:
    connection = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    await connection.delete(health.SHARED_KEY)
    yield connection
    await connection.delete(health.SHARED_KEY)
    await connection.aclose()


@pytest.fixture
async def two(shared: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[TargetHealth]]:
    monkeypatch.setattr(health, "POLL_S", 0.05)
    both = [TargetHealth(shared, QUICK), TargetHealth(shared, QUICK)]
    for one in both:
        await one.open()
    yield both
    for one in both:
        await one.close()


@pytest.fixture
def circuit() -> str:
    return f"{uuid.uuid4()}/m"


def fail(one: TargetHealth, circuit: str, times: int = 5) -> None:
    for _ in range(times):
        one.failed(circuit, DOWN)


async def until(condition: object, timeout_s: float = 2.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator] # noqa: ASYNC110 - what it waits for is another task
            await asyncio.sleep(0.02)


async def test_a_trip_and_a_recovery_are_known_everywhere(two: list[TargetHealth], circuit: str) -> None:
    here, there = two
    fail(here, circuit)
    assert not here.admits(circuit)
    await until(lambda: not there.admits(circuit))

    await asyncio.sleep(QUICK.cool_down_s + 0.05)
    assert await there.try_probe(circuit)
    there.succeeded(circuit, 0.1)
    assert there.admits(circuit)
    await until(lambda: here.admits(circuit))


async def test_one_probe_at_a_time_over_both(two: list[TargetHealth], circuit: str) -> None:
    here, there = two
    fail(here, circuit)
    await until(lambda: not there.admits(circuit))
    await asyncio.sleep(QUICK.cool_down_s + 0.1)
    assert [await here.try_probe(circuit), await there.try_probe(circuit), await here.try_probe(circuit)] == [
        True,
        False,
        False,
    ]
    here.abandoned_probe(circuit)
    await asyncio.sleep(0.1)
    assert await there.try_probe(circuit)


async def test_a_failed_probe_is_followed_by_the_next_after_the_cool_down(
    two: list[TargetHealth], circuit: str
) -> None:
    here, there = two
    fail(here, circuit)
    await until(lambda: not there.admits(circuit))
    await asyncio.sleep(QUICK.cool_down_s + 0.1)
    assert await here.try_probe(circuit)
    fail(here, circuit, times=1)
    await asyncio.sleep(0.1)
    assert not await there.try_probe(circuit)
    await asyncio.sleep(QUICK.longest_cool_down_s)
    assert await there.try_probe(circuit)


async def test_an_operators_word_reaches_the_processes(
    two: list[TargetHealth], circuit: str, shared: redis.asyncio.Redis
) -> None:
    here, there = two
    await write_shared(shared, circuit, tripped_by_hand())
    await until(lambda: not here.admits(circuit) and not there.admits(circuit))
    assert not await here.try_probe(circuit)
    await write_shared(shared, circuit, reset_by_hand())
    await until(lambda: here.admits(circuit) and there.admits(circuit))


async def test_a_process_that_has_not_heard_yet_does_not_undo_an_operators_trip(
    two: list[TargetHealth], circuit: str, shared: redis.asyncio.Redis
) -> None:
    here, there = two
    fail(here, circuit)
    await asyncio.sleep(QUICK.cool_down_s + 0.1)
    await write_shared(shared, circuit, tripped_by_hand())
    here.succeeded(circuit, 0.1)  # the probe that was under way
    await until(lambda: not here.admits(circuit) and not there.admits(circuit))
    await asyncio.sleep(QUICK.longest_cool_down_s)
    assert not await here.try_probe(circuit)


async def test_a_late_write_loses_to_a_newer_entry(circuit: str, shared: redis.asyncio.Redis) -> None:
    await write_shared(shared, circuit, SharedCircuit("open", 20.0, 25.0))
    await write_shared(shared, circuit, SharedCircuit("closed", 10.0))
    assert (await health.read_shared(shared))[circuit].state == "open"


async def test_a_flushed_redis_opens_and_closes_nothing(
    two: list[TargetHealth], circuit: str, shared: redis.asyncio.Redis
) -> None:
    here, _ = two
    fail(here, circuit)
    await asyncio.sleep(0.1)
    await shared.delete(health.SHARED_KEY)
    await asyncio.sleep(0.15)
    assert not here.admits(circuit)


async def test_without_redis_each_process_has_its_own(circuit: str) -> None:
    away = redis.asyncio.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.05)
    alone = TargetHealth(away, QUICK)
    await alone.open()
    fail(alone, circuit)
    assert not alone.admits(circuit)
    await asyncio.sleep(QUICK.cool_down_s + 0.05)
    assert await alone.try_probe(circuit)
    assert not await alone.try_probe(circuit)
    alone.succeeded(circuit, 0.1)
    assert alone.admits(circuit)
    await alone.close()
    await away.aclose()


@pytest.mark.parametrize("harm", ["stop", "hang"])
async def test_a_redis_that_goes_away_changes_nothing_and_is_taken_up_again(
    redis_server: RedisServer, circuit: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "POLL_S", 0.05)
    monkeypatch.setattr(health, "REDIS_TIMEOUT_S", 0.1)
    connection = redis_server.client()
    one = TargetHealth(connection, QUICK)
    await one.open()
    fail(one, circuit)
    await asyncio.sleep(0.1)
    getattr(redis_server, harm)()

    await asyncio.sleep(QUICK.cool_down_s + 0.05)
    assert not one.admits(circuit)
    started = time.monotonic()
    assert await one.try_probe(circuit)
    assert time.monotonic() - started < 5 * health.PROBE_TIMEOUT_S
    one.succeeded(circuit, 0.1)
    assert one.admits(circuit)

    if harm == "stop":
        redis_server.start()
    else:
        redis_server.resume()
    await write_shared(connection, circuit, tripped_by_hand())
    await until(lambda: not one.admits(circuit))
    await one.close()
    await connection.aclose()


@pytest.mark.parametrize(
    "error",
    [
        ProviderError("caller's", vendor_status=400),
        ProviderError("caller's", vendor_status=422),
        ProviderError("limit", vendor_status=429, retry_after_s=0.1),
        ProviderError("another text", kind="diverged"),
    ],
)
async def test_what_is_not_the_targets_fault_opens_nothing(
    two: list[TargetHealth], circuit: str, error: ProviderError
) -> None:
    for _ in range(20):
        two[0].failed(circuit, error)
    assert two[0].admits(circuit)


async def test_a_rate_limit_pauses_the_target(two: list[TargetHealth], circuit: str) -> None:
    here, _ = two
    here.failed(circuit, ProviderError("limit", vendor_status=429, retry_after_s=0.2))
    assert 0.1 < here.paused_for(circuit) <= 0.2
    await asyncio.sleep(0.25)
    assert here.paused_for(circuit) == 0
    here.saw_headers(circuit, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"})
    assert 1.5 < here.paused_for(circuit) <= 2


async def test_paces_are_told_once_there_are_enough(two: list[TargetHealth], circuit: str) -> None:
    here, _ = two
    for number in range(19):
        here.succeeded(circuit, number / 10)
    assert here.first_token_s(circuit, 0.5) is None
    here.succeeded(circuit, 1.9)
    assert here.first_token_s(circuit, 0.5) == 1.0
    assert here.first_token_s(circuit, 0.95) == 1.9
