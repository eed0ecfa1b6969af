import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING

import msgspec
import pytest
import redis as blocking_redis
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from tenants.ratelimit import Correction, LocalBuckets, RateLimiter, Rule, Slots, Verdict, local
from tenants.ratelimit import limiter as limiting
from tenants.ratelimit.news import News
from tenants.ratelimit.script import SCRIPT

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

HOUR = 3600.0
SECOND_US = 1_000_000.0


@pytest.fixture
async def limiter(redis: Redis) -> AsyncIterator[RateLimiter]:
    limiter = RateLimiter(redis, workers=2, timeout_s=1.0)
    yield limiter
    await limiter.aclose()


async def calls_of_the_script(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


async def take(limiter: RateLimiter, rule: Rule, times: int) -> list[Verdict]:
    return list(await asyncio.gather(*(limiter.check([rule]) for _ in range(times))))


# --------------------------------------------------------------------------- verdicts


async def test_allows_exactly_the_limit_at_once(limiter: RateLimiter) -> None:
    verdicts = await take(limiter, Rule("token", 7, HOUR), 10)

    assert [verdict.allowed for verdict in verdicts] == [True] * 7 + [False] * 3
    assert [verdict.requests.remaining for verdict in verdicts] == [6, 5, 4, 3, 2, 1, 0, 0, 0, 0]
    assert not any(verdict.degraded for verdict in verdicts)


async def test_says_what_is_left_and_when(limiter: RateLimiter) -> None:
    rule = Rule("token", 60, 60.0, cost=20)

    verdict = await limiter.check([rule])

    standing = verdict.requests
    assert verdict.allowed
    assert (standing.limit, standing.remaining, standing.rule) == (60, 40, rule)
    assert standing.reset_s == pytest.approx(20, abs=0.5)
    assert verdict.retry_after_s == 0


async def test_what_is_refused_passes_after_retry_after_and_not_before(limiter: RateLimiter) -> None:
    rule = Rule("token", 5, 1.0)
    verdicts = await take(limiter, rule, 6)
    assert [verdict.allowed for verdict in verdicts] == [True] * 5 + [False]
    assert verdicts[5].retry_after_s == pytest.approx(0.2, abs=0.05)

    await asyncio.sleep(verdicts[5].retry_after_s / 2)
    assert not (await limiter.check([rule])).allowed
    await asyncio.sleep(verdicts[5].retry_after_s / 2 + 0.01)

    assert (await limiter.check([rule])).allowed


async def test_takes_from_all_rules_or_from_none(limiter: RateLimiter) -> None:
    token, tenant = Rule("token", 10, HOUR), Rule("tenant", 3, HOUR)

    verdicts = [await limiter.check([token, tenant]) for _ in range(5)]

    assert [verdict.allowed for verdict in verdicts] == [True] * 3 + [False] * 2
    assert verdicts[4].refused_by == tenant
    assert (await limiter.check([token])).requests.remaining == 10 - 3 - 1


async def test_names_the_tightest_rule_when_allowed(limiter: RateLimiter) -> None:
    wide, tight = Rule("wide", 1_000, HOUR), Rule("tight", 10, HOUR)

    assert (await limiter.check([wide, tight])).requests.rule == tight


async def test_names_the_refusing_rule_with_the_longest_wait(limiter: RateLimiter) -> None:
    short, long = Rule("short", 1, 10.0), Rule("long", 1, HOUR)
    await limiter.check([short, long])

    verdict = await limiter.check([short, long])

    assert verdict.refused_by == long
    assert verdict.retry_after_s == pytest.approx(HOUR, abs=1)


async def test_burst_bounds_what_may_come_at_once(limiter: RateLimiter) -> None:
    verdicts = await take(limiter, Rule("token", 600, 60.0, burst=3), 5)

    assert [verdict.allowed for verdict in verdicts] == [True] * 3 + [False] * 2
    assert verdicts[3].retry_after_s == pytest.approx(0.1, abs=0.05)


async def test_a_cost_above_the_burst_never_passes_and_takes_nothing(limiter: RateLimiter) -> None:
    verdict = await limiter.check([Rule("token", 10, 60.0, cost=11)])

    assert not verdict.allowed
    assert verdict.retry_after_s == 60.0
    assert (await limiter.check([Rule("token", 10, 60.0, cost=10)])).allowed


async def test_limit_zero_is_no_limit_and_asks_nobody() -> None:
    limiter = RateLimiter(Redis(unix_socket_path="/nowhere"), workers=1)

    verdicts = [await limiter.check(rules) for rules in ([], [Rule("token", 0, 60.0)])]

    assert all(verdict.allowed and verdict.requests is None and not verdict.degraded for verdict in verdicts)
    assert not limiter.degraded


@pytest.mark.parametrize(
    "figures", [{"limit": -1}, {"window_s": 0}, {"window_s": -1.0}, {"cost": -1}, {"burst": 0}], ids=str
)
def test_a_rule_without_sense_is_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a rate limit has"):
        Rule(**{"key": "token", "limit": 1, "window_s": 1.0} | figures)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- one call for many


async def test_callers_of_one_tick_share_one_call(limiter: RateLimiter, redis: Redis) -> None:
    await limiter.connect()
    before = await calls_of_the_script(redis)

    await asyncio.gather(*(limiter.check([Rule(f"token-{i % 4}", 1_000, HOUR)]) for i in range(32)))

    assert await calls_of_the_script(redis) - before == 1


async def test_callers_who_come_during_a_call_share_the_next_one(limiter: RateLimiter, redis: Redis) -> None:
    await limiter.connect()
    before = await calls_of_the_script(redis)
    rule = Rule("token", 1_000, HOUR)

    first = asyncio.create_task(limiter.check([rule]))
    for _ in range(2):
        await asyncio.sleep(0)  # the call is under way
    await asyncio.gather(first, *(limiter.check([rule]) for _ in range(20)))

    assert await calls_of_the_script(redis) - before == 2


async def test_a_large_crowd_is_served_in_several_calls_and_counted_exactly(limiter: RateLimiter, redis: Redis) -> None:
    await limiter.connect()
    before = await calls_of_the_script(redis)

    verdicts = await take(limiter, Rule("token", 500, HOUR), 600)

    assert sum(verdict.allowed for verdict in verdicts) == 500
    assert await calls_of_the_script(redis) - before == 3


async def test_processes_share_a_limit_exactly(redis: Redis) -> None:
    limiters = [RateLimiter(redis, workers=4, timeout_s=1.0) for _ in range(4)]
    rule = Rule("token", 100, HOUR)

    verdicts = await asyncio.gather(*(limiter.check([rule]) for limiter in limiters for _ in range(40)))

    assert sum(verdict.allowed for verdict in verdicts) == 100
    for limiter in limiters:
        await limiter.aclose()


async def test_a_caller_who_hangs_up_disturbs_nobody(limiter: RateLimiter) -> None:
    rule = Rule("token", 10, HOUR)
    callers = [asyncio.create_task(limiter.check([rule])) for _ in range(5)]
    await asyncio.sleep(0)
    callers[1].cancel()

    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert all(isinstance(outcome, Verdict) and not outcome.degraded for i, outcome in enumerate(outcomes) if i != 1)


async def test_keys_carry_the_prefix_and_expire_when_the_bucket_is_empty(limiter: RateLimiter, redis: Redis) -> None:
    await limiter.check([Rule("token", 60, 60.0, cost=30)])

    assert await redis.keys() == [b"rl:token"]
    assert 29_000 < await redis.pttl("rl:token") <= 30_001


async def test_a_client_that_decodes_replies_serves_as_well(shared_redis_server: "RedisServer") -> None:
    client = Redis(unix_socket_path=shared_redis_server.socket_path, decode_responses=True)
    limiter = RateLimiter(client, workers=1, timeout_s=1.0)

    assert not (await limiter.check([Rule("token", 10, 60.0)])).degraded
    await limiter.aclose()
    await client.aclose()


# --------------------------------------------------------------------------- Redis in trouble


async def seconds_for(limiter: RateLimiter, rule: Rule, times: int = 20) -> float:
    """Duration of the slowest of several checks one after the other, all of them degraded."""
    slowest = 0.0
    for _ in range(times):
        started = time.perf_counter()
        assert (await limiter.check([rule])).degraded
        slowest = max(slowest, time.perf_counter() - started)
    return slowest


async def until_shared_again(limiter: RateLimiter, rule: Rule) -> None:
    async with asyncio.timeout(5):
        while (await limiter.check([rule])).degraded:  # noqa: ASYNC110 - the checks themselves start the probes
            await asyncio.sleep(0.02)


ROOMY = Rule("roomy", 100_000, 60.0)


async def test_an_emptied_redis_goes_unnoticed(limiter: RateLimiter, redis: Redis) -> None:
    await limiter.check([ROOMY])
    await redis.flushall()
    await redis.script_flush()

    verdict = await limiter.check([ROOMY])

    assert verdict.allowed
    assert not verdict.degraded
    assert verdict.requests.remaining == ROOMY.limit - 1


async def test_a_connection_that_redis_closed_goes_unnoticed(limiter: RateLimiter, redis: Redis) -> None:
    await limiter.check([ROOMY])
    await redis.client_kill_filter(_type="normal", skipme=True)

    assert not (await limiter.check([ROOMY])).degraded


async def test_a_restart_between_two_requests_goes_unnoticed(redis_server: "RedisServer") -> None:
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=1.0)
    await limiter.check([ROOMY])
    redis_server.stop()
    redis_server.start()

    assert not (await limiter.check([ROOMY])).degraded
    await limiter.aclose()


async def test_a_stopped_redis_delays_nobody_and_is_found_again(
    redis_server: "RedisServer", caplog: pytest.LogCaptureFixture
) -> None:
    limiter = RateLimiter(redis_server.client(), workers=1)
    await limiter.check([ROOMY])
    redis_server.stop()

    verdicts = await take(limiter, ROOMY, 50)
    assert all(verdict.allowed and verdict.degraded for verdict in verdicts)
    assert limiter.degraded
    assert await seconds_for(limiter, ROOMY) < 0.04

    redis_server.start()
    await until_shared_again(limiter, ROOMY)
    assert not limiter.degraded
    assert sum("degraded" in record.message for record in caplog.records) == 1
    await limiter.aclose()


async def test_a_redis_that_hangs_costs_one_timeout_in_all(redis_server: "RedisServer") -> None:
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=0.05)
    await limiter.connect()
    redis_server.hang()

    started = time.perf_counter()
    verdicts = await take(limiter, ROOMY, 50)
    assert time.perf_counter() - started < 0.05 + 0.1
    assert all(verdict.allowed and verdict.degraded for verdict in verdicts)

    # Beyond the first probe, which hangs in its turn and must not hold up anybody.
    slowest = 0.0
    for _ in range(15):
        slowest = max(slowest, await seconds_for(limiter, ROOMY))
        await asyncio.sleep(0.1)
    assert slowest < 0.04

    redis_server.resume()
    await until_shared_again(limiter, ROOMY)
    await limiter.aclose()


async def test_a_redis_that_hangs_from_the_start_is_given_up_as_soon(redis_server: "RedisServer") -> None:
    redis_server.hang()
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=0.05)

    started = time.perf_counter()
    assert (await limiter.check([ROOMY])).degraded
    assert time.perf_counter() - started < 0.05 + 0.1

    redis_server.resume()
    await limiter.aclose()


async def test_a_full_redis_degrades_until_it_has_room_again(redis_server: "RedisServer") -> None:
    client = redis_server.client()
    limiter = RateLimiter(client, workers=1, timeout_s=1.0)
    await client.config_set("maxmemory", 1)

    assert (await limiter.check([ROOMY])).degraded
    await asyncio.sleep(1.2)
    assert (await limiter.check([ROOMY])).degraded  # starts a probe, which finds that Redis cannot write
    await asyncio.sleep(0.2)
    assert limiter.degraded

    await client.config_set("maxmemory", 0)
    await until_shared_again(limiter, ROOMY)
    await limiter.aclose()
    await client.aclose()


async def test_connecting_to_nothing_degrades_without_raising() -> None:
    limiter = RateLimiter(Redis(unix_socket_path="/nowhere"), workers=1)

    await limiter.connect()

    assert limiter.degraded


async def test_a_process_alone_grants_its_share_of_the_limit() -> None:
    limiter = RateLimiter(Redis(unix_socket_path="/nowhere"), workers=4)

    verdicts = await take(limiter, Rule("token", 100, HOUR), 40)

    assert sum(verdict.allowed for verdict in verdicts) == 25
    assert verdicts[0].requests.limit == 100
    assert verdicts[0].requests.remaining == 24
    assert verdicts[39].retry_after_s == pytest.approx(HOUR / 25, rel=0.01)


async def test_a_share_is_never_too_small_for_one_request() -> None:
    limiter = RateLimiter(Redis(unix_socket_path="/nowhere"), workers=4)

    few = await take(limiter, Rule("few", 2, HOUR), 2)
    costly = await take(limiter, Rule("costly", 100, HOUR, cost=90), 2)

    assert [verdict.allowed for verdict in few + costly] == [True, False, True, False]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])  # they order timers and sockets differently
def test_a_stalled_event_loop_is_not_mistaken_for_a_dead_redis(
    shared_redis_server: "RedisServer", run: Callable[[Coroutine[None, None, Verdict]], Verdict]
) -> None:
    async def check_in_a_stalled_loop() -> Verdict:
        limiter = RateLimiter(shared_redis_server.client(), workers=1, timeout_s=0.05)
        await limiter.connect()
        check = asyncio.create_task(limiter.check([ROOMY]))
        for _ in range(2):
            await asyncio.sleep(0)  # the call is under way
        time.sleep(0.3)  # noqa: ASYNC251 - the stall
        verdict = await check
        await limiter.aclose()
        return verdict

    assert not run(check_in_a_stalled_loop()).degraded


async def test_a_failed_redis_is_tried_again_once_a_second_at_most() -> None:
    connections = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        limiter = RateLimiter(Redis(port=server.sockets[0].getsockname()[1]), workers=1)
        for _ in range(30):
            assert (await limiter.check([ROOMY])).degraded
            await asyncio.sleep(0.05)

    assert 2 <= connections <= 3
    await limiter.aclose()


async def test_closing_before_the_call_went_out_leaves_nobody_waiting(limiter: RateLimiter) -> None:
    check = asyncio.create_task(limiter.check([ROOMY]))
    await asyncio.sleep(0)

    await limiter.aclose()

    async with asyncio.timeout(1):
        assert (await check).degraded


async def test_closing_leaves_nobody_waiting(redis_server: "RedisServer") -> None:
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=30.0)
    await limiter.connect()
    redis_server.hang()
    under_way = asyncio.create_task(limiter.check([ROOMY]))
    await asyncio.sleep(0.01)
    queued = asyncio.create_task(limiter.check([ROOMY]))
    await asyncio.sleep(0)

    await limiter.aclose()

    async with asyncio.timeout(1):
        assert (await under_way).degraded
        assert (await queued).degraded


# --------------------------------------------------------------------------- buckets of one process


def test_the_least_recently_used_bucket_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_MAX_LOCAL_BUCKETS", 2)
    buckets = LocalBuckets()

    def fill_of(key: str) -> float:
        return buckets.take([Rule(key, 10, HOUR)], 0.0).fills[0]

    assert [fill_of(key) for key in ("a", "b", "a", "c", "a", "b")] == [1, 1, 2, 1, 3, 1]


def test_a_clock_that_jumps_back_locks_nobody_out() -> None:
    buckets = LocalBuckets()
    rule = Rule("token", 2, 1.0)
    assert buckets.take([rule], 1e6 * SECOND_US).allowed

    assert buckets.take([rule], 0.0).allowed
    assert not buckets.take([rule], 0.0).allowed
    assert buckets.take([rule], SECOND_US).allowed


@given(
    limit=st.integers(1, 50),
    window_s=st.floats(0.1, 100),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_window_lets_more_than_limit_and_burst_pass(limit: int, window_s: float, gaps: list[float]) -> None:
    buckets, rule = LocalBuckets(), Rule("token", limit, window_s)
    arrivals = [at * SECOND_US for at in itertools.accumulate(gaps)]

    passed = [at for at in arrivals if buckets.take([rule], at).allowed]

    for first, start in enumerate(passed):
        in_window = sum(at < start + window_s * SECOND_US for at in passed[first:])
        assert in_window <= limit * 2


# --------------------------------------------------------------------------- estimates and corrections


def tokens(cost: int, limit: int = 1_000) -> Rule:
    return Rule("tokens", limit, HOUR, cost, unit="tokens")


async def left(limiter: RateLimiter, limit: int = 1_000) -> int:
    """Tokens that are left of the limit, as anybody else sees them."""
    standing = (await limiter.check([tokens(0, limit)])).tokens
    assert standing is not None
    return standing.remaining


async def until_left(limiter: RateLimiter, expected: int) -> None:
    async with asyncio.timeout(5):
        while await left(limiter) != expected:  # noqa: ASYNC110 - another process sends it
            await asyncio.sleep(0.01)


async def test_an_estimate_that_was_too_high_is_given_back(limiter: RateLimiter) -> None:
    verdict = await limiter.check([tokens(700)])
    assert verdict.lease is not None
    assert await left(limiter) == 300

    verdict.lease.end(120)

    assert await left(limiter) == 880


async def test_an_estimate_that_was_too_low_is_charged_even_beyond_the_limit(limiter: RateLimiter) -> None:
    verdict = await limiter.check([tokens(100)])
    assert verdict.lease is not None

    verdict.lease.end(2_500)

    refused = await limiter.check([tokens(1)])
    assert not refused.allowed
    assert refused.tokens is not None
    assert refused.tokens.remaining == 0
    assert refused.retry_after_s == pytest.approx(1.501 * HOUR, rel=0.01)


async def test_a_lease_ends_once(limiter: RateLimiter) -> None:
    verdict = await limiter.check([tokens(700)])
    assert verdict.lease is not None

    verdict.lease.end(500)
    verdict.lease.end(0)

    assert await left(limiter) == 500


async def test_a_correction_reaches_other_processes_without_another_request(redis: Redis) -> None:
    here, there = (RateLimiter(redis, workers=2, timeout_s=1.0) for _ in range(2))
    verdict = await here.check([tokens(900)])
    assert verdict.lease is not None

    verdict.lease.end(100)

    await until_left(there, 900)
    await here.aclose()
    await there.aclose()


async def test_a_correction_goes_out_with_the_next_batch(limiter: RateLimiter, redis: Redis) -> None:
    leases = [(await limiter.check([tokens(10)])).lease for _ in range(20)]
    before = await calls_of_the_script(redis)

    for lease in leases:
        assert lease is not None
        lease.end(1)

    assert await left(limiter) == 980
    assert await calls_of_the_script(redis) - before == 1


async def test_requests_alone_hold_nothing(limiter: RateLimiter) -> None:
    assert (await limiter.check([Rule("token", 10, HOUR)])).lease is None


async def test_a_caller_who_hangs_up_before_the_answer_is_charged_nothing(limiter: RateLimiter) -> None:
    asked = asyncio.create_task(limiter.check([tokens(600)]))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])

    await until_left(limiter, 1_000)


async def test_tokens_are_corrected_without_redis_too() -> None:
    limiter = RateLimiter(Redis(unix_socket_path="/nowhere"), workers=2)
    verdict = await limiter.check([tokens(400)])
    assert verdict.degraded and verdict.lease is not None
    assert await left(limiter) == 100

    verdict.lease.end(50)

    assert await left(limiter) == 450
    await limiter.aclose()


async def test_what_was_charged_alone_is_not_taken_back_from_everybody(redis_server: "RedisServer") -> None:
    limiter = RateLimiter(redis_server.client(), workers=1, timeout_s=1.0)
    redis_server.stop()
    verdict = await limiter.check([tokens(400)])
    redis_server.start()
    await until_shared_again(limiter, ROOMY)
    shared = await limiter.check([tokens(300)])

    assert verdict.lease is not None
    verdict.lease.end(0)

    assert shared.allowed and not shared.degraded
    assert await left(limiter) == 700
    await limiter.aclose()


# --------------------------------------------------------------------------- the script and its twin

rules = st.builds(
    Rule,
    key=st.just(""),
    limit=st.integers(1, 1_000),
    window_s=st.sampled_from([86_400, 86_461.7, 604_800.0]),  # long: Redis expires keys by its own clock
    cost=st.integers(0, 30),
    burst=st.none() | st.integers(1, 50),
)
LONG_LEASE_US = 10**12
example = itertools.count()


@settings(deadline=None)
@given(data=st.data())
def test_the_script_and_the_local_buckets_agree_number_for_number(
    shared_redis_server: "RedisServer", data: st.DataObject
) -> None:
    prefix = f"rl:agree-{next(example)}-"
    limits = [
        msgspec.structs.replace(rule, key=str(i))
        for i, rule in enumerate(data.draw(st.lists(rules, min_size=1, max_size=4)))
    ]
    pools = [Slots(f"pool-{i}", limit) for i, limit in enumerate(data.draw(st.lists(st.integers(1, 4), max_size=3)))]
    request = st.tuples(
        st.lists(st.sampled_from(limits), max_size=4, unique=True),
        st.lists(st.sampled_from(pools), max_size=3, unique=True) if pools else st.just([]),
    )
    corrections = st.lists(st.tuples(st.sampled_from(limits), st.integers(-40, 40)), max_size=3)
    step = st.tuples(
        st.integers(-1_000_000, 9_000_000_000), corrections, st.integers(0, 3), st.lists(request, max_size=4)
    )
    buckets, now, names = LocalBuckets(), 1_700_000_000_000_000, itertools.count()
    under_way: list[tuple[str, list[Slots]]] = []
    with blocking_redis.Redis(unix_socket_path=shared_redis_server.socket_path) as client:
        script = client.register_script(SCRIPT)
        for gap_us, corrected, ending, batch in data.draw(st.lists(step, max_size=12)):
            now += gap_us
            ended, under_way = under_way[:ending], under_way[ending:]
            news = News(
                [Correction(rule.key, rule.limit, rule.window_s, delta) for rule, delta in corrected],
                [(slot.key, name) for name, slots in ended for slot in slots],
                [(slot.key, name) for name, slots in under_way for slot in slots],
            )
            asked = [(wanted, slots, f"lease-{next(names)}") for wanted, slots in batch]
            keys = [limit.key for wanted, slots, _ in asked for limit in (*wanted, *slots)] + list(news.named_keys())
            arguments = [msgspec.msgpack.encode(asked), news.encoded(), LONG_LEASE_US, now]
            reply = limiting._answers.decode(script([prefix + key for key in keys], arguments))

            buckets.correct(news.corrections, now)
            for _, slots in ended:
                buckets.vacate(slots)
            assert reply == [buckets.take(wanted, now, slots) for wanted, slots, _ in asked]
            under_way += [
                (name, slots) for (_, slots, name), answer in zip(asked, reply, strict=True) if answer.allowed and slots
            ]
