"""Which failures are worth a second call of the same target, and how many of those there may be."""

import random

import pytest

from gateway.dispatch.retries import FLOOR, JITTER_S, RetryBudgets
from gateway.errors import ProviderError

RESET = ProviderError("reset", kind="reset")
ODD_500 = ProviderError("500", vendor_status=500)


def budgets() -> RetryBudgets:
    retries = RetryBudgets(random.Random(1))
    retries.asked("a")
    return retries


@pytest.mark.parametrize("error", [RESET, ODD_500])
def test_a_reset_and_an_odd_500_are_asked_again_at_once(error: ProviderError) -> None:
    wait_s = budgets().wait_before_retry("a", error, 1.0)

    assert wait_s is not None
    assert JITTER_S[0] <= wait_s <= JITTER_S[1]


@pytest.mark.parametrize(
    "error",
    [
        ProviderError("silent", kind="timeout"),
        ProviderError("refused", kind="connect"),
        ProviderError("garbage", kind="protocol"),
        ProviderError("503", vendor_status=503),
        ProviderError("401", vendor_status=401),
        ProviderError("404", vendor_status=404),
        ProviderError("429", vendor_status=429),
    ],
)
def test_what_a_second_call_cannot_mend_is_not_repeated(error: ProviderError) -> None:
    assert budgets().wait_before_retry("a", error, 1.0) is None


def test_a_rate_limit_is_waited_for_only_if_that_is_sooner_than_another_target() -> None:
    limited = ProviderError("429", vendor_status=429, retry_after_s=0.5)

    assert budgets().wait_before_retry("a", limited, 0.4) is None
    assert budgets().wait_before_retry("a", limited, None) is None
    waited = budgets().wait_before_retry("a", limited, 2.0)
    assert waited is not None
    assert 0.5 < waited < 0.7


def test_retries_of_a_failing_target_stay_below_a_fifth_of_its_requests_and_a_floor() -> None:
    retries = RetryBudgets(random.Random(1))
    repeated = 0
    for _ in range(1000):
        retries.asked("a")
        repeated += retries.wait_before_retry("a", RESET, 1.0) is not None

    assert 200 <= repeated <= 0.2 * 1000 + FLOOR


def test_one_targets_budget_is_not_another_s() -> None:
    retries = budgets()
    for _ in range(int(FLOOR)):
        retries.wait_before_retry("a", RESET, 1.0)

    assert retries.wait_before_retry("a", RESET, 1.0) is None
    assert retries.wait_before_retry("b", RESET, 1.0) is not None
