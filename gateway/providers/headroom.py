"""What vendors say about their rate limits on every answer, in the two spellings there are."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LIMITS = (  # what is left, when it is refilled, how much there is
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "x-ratelimit-limit-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", "x-ratelimit-limit-tokens"),
    (
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
        "anthropic-ratelimit-requests-limit",
    ),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-limit"),
)


def exhausted_for(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limit that has nothing left is refilled; None while there is room (names in lower case)."""
    longest: float | None = None
    for remaining, reset, _ in _LIMITS:
        if headers.get(remaining) == "0" and (wait_s := _until(headers.get(reset, ""))) is not None:
            longest = wait_s if longest is None else max(longest, wait_s)
    return longest


def share_left(headers: Mapping[str, str]) -> float | None:
    """What is left of the scarcest limit, 0-1; None when the vendor tells of none (names in lower case)."""
    shares = []
    for remaining, _, limit in _LIMITS:
        left, whole = headers.get(remaining, ""), headers.get(limit, "")
        if left.isdigit() and whole.isdigit() and int(whole) > 0:
            shares.append(min(1.0, int(left) / int(whole)))
    return min(shares, default=None)


def _until(reset: str) -> float | None:
    """``1m30s`` and ``250ms`` from OpenAI, an RFC 3339 time from Anthropic, bare seconds from others."""
    if reset.replace(".", "", 1).isdigit():
        return float(reset)
    if (parts := _DURATION.findall(reset)) and "".join(number + unit for number, unit in parts) == reset:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    try:
        at = datetime.fromisoformat(reset)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)
