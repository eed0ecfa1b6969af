"""Requests under way at a time: exact over processes, free again however a request or its process ends."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from tenants.ratelimit import Lease, RateLimiter, Rule, Slots, Verdict

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

HOUR = 3600.0
TWO = Slots("two", 2, "project")
ROOMY = Rule("roomy", 100_000, 60.0)


@pytest.fixture
async def limiters(redis: Redis) -> AsyncIterator[tuple[RateLimiter, RateLimiter]]:
    here, there = (RateLimiter(redis, workers=2, timeout_s=1.0) for _ in range(2))
    yield here, there
    await here.aclose()
    await there.aclose()


async def begin(limiter: RateLimiter, slots: Slots = TWO) -> Lease | None:
    """The lease of a request that was admitted; None of one that was not."""
    verdict = await limiter.check([], [slots])
    assert verdict.allowed == (verdict.lease is not None)
    return verdict.lease


async def begin_as_soon_as_possible(limiter: RateLimiter, slots: Slots = TWO, within_s: float = 5.0) -> Lease:
    async with asyncio.timeout(within_s):
        while (lease := await begin(limiter, slots)) is None:  # noqa: ASYNC110 - another process sends the news
            await asyncio.sleep(0.01)
    return lease


async def test_as_many_are_under_way_as_the_limit_says(limiters: tuple[RateLimiter, RateLimiter]) -> None:
    here, _ = limiters
    leases = [await begin(here) for _ in range(3)]
    assert [lease is not None for lease in leases] == [True, True, False]

    assert leases[0] is not None
    leases[0].end()

    assert await begin(here) is not None


async def test_a_refusal_names_the_slots_and_asks_to_wait(limiters: tuple[RateLimiter, RateLimiter]) -> None:
    kept = [await begin(limiters[0]) for _ in range(2)]

    verdict = await limiters[0].check([ROOMY], [TWO])

    assert kept and not verdict.allowed
    assert verdict.refused_by == TWO
    assert verdict.retry_after_s == 1.0


async def test_whoever_gets_no_slot_takes_nothing_else(limiters: tuple[RateLimiter, RateLimiter]) -> None:
    here, _ = limiters
    kept = [await begin(here) for _ in range(2)]

    for _ in range(3):
        assert not (await here.check([Rule("token", 10, HOUR)], [TWO, Slots("wide", 50)])).allowed

    standing = (await here.check([Rule("token", 10, HOUR)])).requests
    assert kept and standing is not None and standing.remaining == 9
    assert len([lease for lease in [await begin(here, Slots("wide", 1))] if lease]) == 1


async def test_whoever_is_over_a_rate_takes_no_slot(limiters: tuple[RateLimiter, RateLimiter]) -> None:
    here, _ = limiters
    spent = Rule("token", 1, HOUR)
    await here.check([spent])

    refused = [await here.check([spent], [TWO]) for _ in range(3)]

    assert not any(verdict.allowed for verdict in refused)
    assert len([lease for lease in [await begin(here), await begin(here)] if lease]) == 2


async def test_processes_share_slots_exactly(limiters: tuple[RateLimiter, RateLimiter]) -> None:
    slots = Slots("shared", 30)

    leases = await asyncio.gather(*(begin(limiter, slots) for limiter in limiters for _ in range(40)))

    assert sum(lease is not None for lease in leases) == 30


async def test_never_more_than_the_limit_however_requests_come_and_go(
    limiters: tuple[RateLimiter, RateLimiter],
) -> None:
    slots, dice = Slots("busy", 5), random.Random(4)
    under_way = most = served = 0

    async def call(limiter: RateLimiter) -> None:
        nonlocal under_way, most, served
        await asyncio.sleep(dice.random() * 0.2)
        if (lease := await begin(limiter, slots)) is None:
            return
        under_way += 1
        most, served = max(most, under_way), served + 1
        await asyncio.sleep(dice.random() * 0.05)
        under_way -= 1
        lease.end()

    await asyncio.gather(*(call(limiters[number % 2]) for number in range(300)))

    assert most == 5
    assert served > 5
    for limiter in limiters:
        assert not limiter._held
    assert (
        len([lease for lease in [await begin_as_soon_as_possible(limiters[0], slots) for _ in range(5)] if lease]) == 5
    )


async def test_a_slot_given_back_is_free_for_other_processes_in_a_moment(
    limiters: tuple[RateLimiter, RateLimiter],
) -> None:
    here, there = limiters
    leases = [await begin(here), await begin(here)]
    assert await begin(there) is None

    assert leases[0] is not None
    leases[0].end()

    await begin_as_soon_as_possible(there)


async def test_a_lost_lease_is_given_back(limiters: tuple[RateLimiter, RateLimiter]) -> None:
    here, _ = limiters
    leases = [await begin(here), await begin(here)]

    leases.clear()
    gc.collect()
    await here.check([ROOMY])  # whatever comes next takes it in

    assert await begin(here) is not None


async def test_a_caller_who_hangs_up_while_it_is_decided_holds_no_slot(
    limiters: tuple[RateLimiter, RateLimiter],
) -> None:
    here, _ = limiters
    asked = [asyncio.create_task(here.check([], [TWO])) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)
    asked.clear()
    gc.collect()

    leases = [await begin_as_soon_as_possible(here) for _ in range(2)]
    assert len(leases) == 2


# --------------------------------------------------------------------------- processes that die or close


async def test_a_killed_process_loses_its_slots_when_its_leases_end(redis: Redis) -> None:
    killed, other = (RateLimiter(redis, workers=2, timeout_s=1.0, lease_s=1.0) for _ in range(2))
    kept = [await begin(killed), await begin(killed)]
    assert killed._renewal is not None
    killed._renewal.cancel()  # as a killed process does
    taken_at = time.monotonic()
    assert await begin(other) is None

    await begin_as_soon_as_possible(other)

    assert kept
    assert time.monotonic() - taken_at > 0.9
    await other.aclose()
    await killed.aclose()


async def test_a_living_process_keeps_its_slots_for_longer_than_a_lease(redis: Redis) -> None:
    here, there = (RateLimiter(redis, workers=2, timeout_s=1.0, lease_s=0.9) for _ in range(2))
    kept = [await begin(here), await begin(here)]

    for _ in range(25):
        assert await begin(there) is None
        await asyncio.sleep(0.1)

    assert kept[0] is not None
    kept[0].end()
    await begin_as_soon_as_possible(there, within_s=0.8)  # not by the lease's end
    await here.aclose()
    await there.aclose()


async def test_closing_gives_back_what_is_held(redis: Redis) -> None:
    here, there = (RateLimiter(redis, workers=2, timeout_s=1.0) for _ in range(2))
    kept = [await begin(here), await begin(here)]

    await here.aclose()

    first = await begin(there)
    assert kept[0] is not None
    kept[0].end()  # too late, and no harm
    second, third = await begin(there), await begin(there)
    assert [lease is not None for lease in (first, second, third)] == [True, True, False]
    await there.aclose()


async def test_no_key_outlives_its_leases(limiters: tuple[RateLimiter, RateLimiter], redis: Redis) -> None:
    kept = await begin(limiters[0])

    assert kept is not None
    assert await redis.keys() == [b"rl:two"]
    assert 29_000 < await redis.pttl("rl:two") <= 30_000


# --------------------------------------------------------------------------- Redis in trouble


async def until_shared_again(limiter: RateLimiter) -> None:
    async with asyncio.timeout(5):
        while (await limiter.check([ROOMY])).degraded:  # noqa: ASYNC110 - the checks themselves start the probes
            await asyncio.sleep(0.02)


async def test_a_process_alone_has_its_share_under_way_and_at_least_one() -> None:
    limiter = RateLimiter(Redis(unix_socket_path="/nowhere"), workers=3)
    many = [await begin(limiter, Slots("many", 9)) for _ in range(4)]
    few = [await begin(limiter, Slots("few", 2)) for _ in range(2)]

    assert [lease is not None for lease in many] == [True, True, True, False]
    assert [lease is not None for lease in few] == [True, False]
    assert few[0] is not None
    few[0].end()
    assert await begin(limiter, Slots("few", 2)) is not None
    await limiter.aclose()


async def test_what_was_under_way_before_redis_stopped_counts_without_it(redis_server: "RedisServer") -> None:
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=1.0)
    lease = await begin(limiter)
    redis_server.stop()

    verdicts: list[Verdict] = [await limiter.check([], [TWO]) for _ in range(2)]

    assert lease is not None
    assert [verdict.allowed for verdict in verdicts] == [True, False]
    assert all(verdict.degraded for verdict in verdicts)
    await limiter.aclose()


async def test_what_began_without_redis_counts_for_everybody_once_it_is_back(redis_server: "RedisServer") -> None:
    here, there = (RateLimiter(redis_server.client(), workers=1, timeout_s=1.0) for _ in range(2))
    redis_server.stop()
    kept = [await begin(here), await begin(here)]
    assert all(kept) and here.degraded
    redis_server.start()
    await until_shared_again(here)

    async with asyncio.timeout(5):
        while (lease := await begin(there)) is not None:
            lease.end()
            await asyncio.sleep(0.01)

    assert kept[0] is not None
    kept[0].end()
    await begin_as_soon_as_possible(there)
    await here.aclose()
    await there.aclose()


async def test_what_ended_while_redis_was_away_is_free_once_it_is_back(redis_server: "RedisServer") -> None:
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=0.3)
    kept = [await begin(limiter), await begin(limiter)]
    redis_server.hang()
    assert (await limiter.check([ROOMY])).degraded
    for lease in kept:
        assert lease is not None
        lease.end()
    redis_server.resume()
    await until_shared_again(limiter)

    assert len([await begin_as_soon_as_possible(limiter) for _ in range(2)]) == 2
    await limiter.aclose()


async def test_an_emptied_redis_knows_what_is_under_way_again_after_the_next_renewal(
    redis_server: "RedisServer",
) -> None:
    client = redis_server.client()
    here, there = (RateLimiter(redis_server.client(), workers=1, timeout_s=1.0, lease_s=0.9) for _ in range(2))
    kept = [await begin(here), await begin(here)]

    await client.flushall()

    async with asyncio.timeout(5):
        while (lease := await begin(there)) is not None:
            lease.end()
            await asyncio.sleep(0.01)
    assert all(kept)
    for limiter in (here, there):
        await limiter.aclose()
    await client.aclose()
