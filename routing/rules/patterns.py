"""Names as tenants write them: as they are, or with ``*`` for any characters. Takes time linear in the name."""

from collections.abc import Iterable
from functools import lru_cache

from routing.candidates import Contestant


def those_of(field: Iterable[Contestant], patterns: Iterable[str]) -> set[str]:
    """The names of candidates that one of the patterns means, by name or as ``provider/name``."""
    wanted = tuple(patterns)
    return {one.name for one in field if _means(wanted, one.name, one.provider)}


def in_regions(field: Iterable[Contestant], patterns: Iterable[str]) -> set[str]:
    """The names of candidates whose region one of the patterns means, in whatever case."""
    wanted = tuple(patterns)
    return {one.name for one in field if _lies_in(wanted, one.region)}


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a name."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == name
    if not name.startswith(first):
        return False
    at = len(first)
    *middle, last = rest
    for part in middle:
        at = name.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return len(name) - at >= len(last) and name.endswith(last)


@lru_cache(16_384)
def _lies_in(patterns: tuple[str, ...], region: str) -> bool:
    return any(matches(pattern.lower(), region.lower()) for pattern in patterns)


@lru_cache(16_384)
def _means(patterns: tuple[str, ...], name: str, provider: str) -> bool:
    qualified = f"{provider}/{name}"
    return any(matches(pattern, name) or matches(pattern, qualified) for pattern in patterns)
