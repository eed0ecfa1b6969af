"""What vendors' rate-limit headers say."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.providers.headroom import exhausted_for


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


def test_the_limit_that_takes_longest_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "20s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1h",
    }
    assert exhausted_for(headers) == 3600


def test_a_time_of_day_is_counted_from_now() -> None:
    at = datetime.now(UTC) + timedelta(seconds=40)
    headers = {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": at.isoformat()}
    assert exhausted_for(headers) == pytest.approx(40, abs=2)
