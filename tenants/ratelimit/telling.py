"""What a caller is told of the limits that hold for it."""

import math
from datetime import UTC, datetime
from typing import Final

from gateway.errors import RateLimitExceeded
from tenants.ratelimit.rules import Rule, Scope, Slots
from tenants.ratelimit.verdict import Standing, Verdict

Headers = list[tuple[bytes, bytes]]

_WHOSE: Final[dict[Scope, str]] = {
    "": "this request",
    "ip": "your network address",
    "tenant": "your organisation",
    "project": "this project",
    "token": "this API key",
    "user": "this end user",
    "model": "this model",
}
_UNITS: Final = (b"requests", b"tokens")
_FACTS: Final = (b"limit", b"remaining", b"reset")
_OURS: Final = [[b"x-ratelimit-%s-%s" % (fact, unit) for fact in _FACTS] for unit in _UNITS]
_ANTHROPICS: Final = [[b"anthropic-ratelimit-%s-%s" % (unit, fact) for fact in _FACTS] for unit in _UNITS]
_PERIODS: Final = {1.0: "second", 60.0: "minute"}


class LargerThanLimit(RateLimitExceeded):
    """It would be refused at any time."""

    should_retry = False


def headers(verdict: Verdict, dialect: str) -> Headers:
    """The tightest limit of each kind; in the Anthropic dialect by that vendor's names besides."""
    told: Headers = []
    for standing, ours, anthropics in zip(verdict.standings(), _OURS, _ANTHROPICS, strict=True):
        if standing is None:
            continue
        limit, remaining = b"%d" % standing.limit, b"%d" % standing.remaining
        told += ((ours[0], limit), (ours[1], remaining), (ours[2], b"%.3fs" % standing.reset_s))
        if dialect.startswith("anthropic"):
            told += ((anthropics[0], limit), (anthropics[1], remaining), (anthropics[2], _moment_in(standing)))
    return told


def refusal(verdict: Verdict) -> RateLimitExceeded:
    """What a caller over a limit is told. Names what the limit holds for, and nobody."""
    refusing = verdict.refused_by
    assert refusing is not None  # noqa: S101 - only a refused request asks
    wait_s = verdict.retry_after_s
    whose = _WHOSE[refusing.scope]
    if isinstance(refusing, Slots):
        return RateLimitExceeded(
            f"Rate limit reached for {whose}: {_counted(refusing.limit, 'request')} at a time. Wait for one to end.",
            retry_after_s=wait_s,
            details={"scope": refusing.scope, "unit": "concurrent", "limit": refusing.limit},
        )
    limit = f"{_counted(refusing.limit, refusing.unit[:-1])} per {_period(refusing)}"
    details = {"scope": refusing.scope, "unit": refusing.unit, "limit": refusing.limit}
    if refusing.cost > (refusing.limit if refusing.burst is None else refusing.burst):
        return LargerThanLimit(
            f"This request alone is larger than the rate limit for {whose}: about {refusing.cost} {refusing.unit}, "
            f"where {limit} are allowed.",
            param="max_tokens" if refusing.unit == "tokens" else None,
            retry_after_s=wait_s,
            details=details,
        )
    return RateLimitExceeded(
        f"Rate limit reached for {whose}: {limit}. Try again in {wait_s:.1f} s.", retry_after_s=wait_s, details=details
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _period(rule: Rule) -> str:
    return _PERIODS.get(rule.window_s, f"{rule.window_s:g} s")


def _moment_in(standing: Standing) -> bytes:
    """When its bucket is empty again, as RFC 3339 in whole seconds, not too early."""
    moment = datetime.fromtimestamp(math.ceil(datetime.now(UTC).timestamp() + standing.reset_s), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
