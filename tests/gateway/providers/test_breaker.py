"""When a target is left alone, and how it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.breaker import Breaker, BreakerRules

RULES = BreakerRules()


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(RULES.failures_in_a_row):
        breaker.failed(at, "timeout")
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(RULES)
    assert [breaker.failed(0.0, "reset") for _ in range(RULES.failures_in_a_row)] == [False] * 4 + [True]
    assert (breaker.state(0.0), breaker.last_error) == ("open", "reset")


def test_a_success_in_between_starts_the_row_anew() -> None:
    breaker = Breaker(RULES)
    for _ in range(4):
        breaker.failed(0.0, "reset")
    breaker.succeeded(0.0)
    assert not breaker.failed(0.0, "reset")
    assert breaker.state(0.0) == "closed"


def test_opens_when_half_of_the_recent_calls_fail() -> None:
    breaker = Breaker(RULES)
    for turn in range(4):
        breaker.succeeded(float(turn))
        breaker.failed(float(turn), "stream")
    breaker.succeeded(4.0)
    assert breaker.failed(4.0, "stream")


def test_old_calls_do_not_count_for_the_share() -> None:
    breaker = Breaker(RULES)
    for turn in range(4):
        breaker.succeeded(float(turn))
        breaker.failed(float(turn), "stream")
    breaker.succeeded(100.0)
    assert not breaker.failed(100.0, "stream")


def test_one_probe_at_a_time_after_the_cool_down() -> None:
    breaker = opened()
    assert not breaker.may_probe(RULES.cool_down_s - 0.01)
    assert breaker.may_probe(RULES.cool_down_s)
    breaker.begin_probe(RULES.cool_down_s)
    assert not breaker.may_probe(RULES.cool_down_s + 1)
    breaker.abandon_probe()
    assert breaker.may_probe(RULES.cool_down_s + 1)


def test_a_probe_that_never_tells_is_given_up() -> None:
    breaker = opened()
    breaker.begin_probe(5.0)
    assert breaker.may_probe(5.0 + RULES.probe_lease_s)


def test_a_successful_probe_closes_the_circuit() -> None:
    breaker = opened()
    assert breaker.succeeded(6.0)
    assert breaker.state(6.0) == "closed"


def test_failed_probes_wait_ever_longer_but_never_more_than_the_longest_cool_down() -> None:
    breaker = opened()
    waits = []
    for _ in range(5):
        now = breaker.retry_at
        breaker.begin_probe(now)
        breaker.failed(now, "timeout")
        waits.append(breaker.retry_at - now)
    assert waits == [10, 20, 20, 20, 20]


def test_a_long_first_cool_down_is_not_shortened_by_a_failed_probe() -> None:
    breaker = Breaker(BreakerRules(failures_in_a_row=1, cool_down_s=60))
    breaker.failed(0.0, "timeout")
    breaker.failed(60.0, "timeout")
    assert breaker.retry_at == 120


def test_an_operators_trip_outlasts_time_and_answers() -> None:
    breaker = Breaker(RULES)
    breaker.open(0.0, by_hand=True)
    assert not breaker.succeeded(1.0)
    assert breaker.state(1e6) == "open"
    breaker.close()
    assert breaker.state(1e6) == "closed"


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "probe", "leave"]), st.floats(0, 20)), max_size=80))
def test_whatever_happens_a_recovered_target_is_back_within_thirty_seconds(events: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(RULES), 0.0
    for event, later in events:
        now += later
        match event:
            case "ok":
                breaker.succeeded(now)
            case "fail":
                breaker.failed(now, "timeout")
            case "probe":
                if breaker.may_probe(now):
                    breaker.begin_probe(now)
                    breaker.failed(now, "timeout")
            case "leave":
                breaker.abandon_probe()
    recovered = now
    while breaker.state(now) != "closed":
        now += 0.5
        if breaker.may_probe(now):
            breaker.begin_probe(now)
            breaker.succeeded(now)
        assert now - recovered <= 30


@pytest.mark.parametrize("failures", [1, 4])
def test_few_failures_leave_it_closed(failures: int) -> None:
    breaker = Breaker(RULES)
    for _ in range(failures):
        breaker.failed(0.0, "reset")
    assert breaker.state(0.0) == "closed"
