"""Token counts of chat vendors, taken apart into disjoint classes."""

from gateway.wire.types import Usage, service_tier

MAX_TOKENS = 1_000_000_000  # a count beyond this is a vendor's mistake, not a bill

_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
# Where vendors and proxies other than OpenAI put the same facts.
_CACHE_READ = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
_CACHE_WRITE = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")


def parse_usage(usage: object, served_as: object = None) -> Usage | None:
    """The vendor's inclusive counts as disjoint ones; None if it sent nothing that can be believed. ``served_as`` is
    the tier of service that stands beside them.

    A detail that contradicts its total (more cached than prompt tokens) counts as not sent, so no class is
    ever negative and the classes add up to the totals. Vendors that do not include reasoning in
    ``completion_tokens`` are told by their ``total_tokens``.
    """
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    total = _count(usage.get("total_tokens"))
    if completion is None and prompt is not None and total is not None and total >= prompt:
        completion = total - prompt
    if prompt is None or completion is None or not prompt + completion:
        return None
    given, spent = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    if not given and not spent and len(usage) == len(_TOTALS.intersection(usage)):
        return Usage(input=prompt, output=completion, service_tier=service_tier(served_as))  # nothing to take apart
    reasoning = _detail(spent, "reasoning_tokens")
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    rest, cached = _take(prompt, _detail(given, "cached_tokens") or _any_of(usage, _CACHE_READ))
    rest, written = _take(rest, _any_of(given, _CACHE_WRITE) or _any_of(usage, _CACHE_WRITE))
    rest, audio_input = _take(rest, _detail(given, "audio_tokens"))
    output, reasoning = _take(completion, reasoning)
    output, audio_output = _take(output, _detail(spent, "audio_tokens"))
    return Usage(
        input=rest,
        cached_input=cached,
        cache_write_5m=written,
        output=output,
        reasoning=reasoning,
        audio_input=audio_input,
        audio_output=audio_output,
        service_tier=service_tier(served_as),
    )


def _count(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def _detail(counts: object, name: str) -> int:
    return _count(counts.get(name)) or 0 if isinstance(counts, dict) else 0


def _any_of(counts: object, names: tuple[str, ...]) -> int:
    """The first count there is under one of ``names``."""
    if isinstance(counts, dict):
        for name in names:
            if name in counts and (count := _count(counts[name])):
                return count
    return 0


def _take(total: int, part: int) -> tuple[int, int]:
    """``total`` without ``part``, and ``part``; a part larger than the total is nonsense and counts as none."""
    return (total - part, part) if part <= total else (total, 0)
