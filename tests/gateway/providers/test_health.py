"""The health of targets: shared between processes through a real Redis, and kept without it."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from django.conf import settings

from gateway.errors import ProviderError
from gateway.providers import health
from gateway.providers.breaker import BreakerRules
from gateway.providers.headroom import exhausted_for
from gateway.providers.health import TargetHealth, reset_by_hand, tripped_by_hand, write_shared

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


async def test_an_operators_word_reaches_the_processes(
    two: list[TargetHealth], circuit: str, shared: redis.asyncio.Redis
) -> None:
    here, there = two
    await write_shared(shared, circuit, tripped_by_hand())
    await until(lambda: not here.admits(circuit) and not there.admits(circuit))
    assert not await here.try_probe(circuit)
    await write_shared(shared, circuit, reset_by_hand())
    await until(lambda: here.admits(circuit) and there.admits(circuit))


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


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, 90),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "250ms"}, 0.25),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7"}, 7),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2020-01-01T00:00:00Z",
            },
            0,
        ),
    ],
)
def test_vendors_headers_say_how_long(headers: dict[str, str], seconds: float | None) -> None:
    assert exhausted_for(headers) == seconds
