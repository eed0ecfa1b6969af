"""Checks of what a tenant wrote under a rule. All raise ValueError with a sentence."""

from collections.abc import Iterable
from typing import Any

from routing.candidates import Options

LONGEST_NAME = 200
MOST_NAMES = 50
MOST_POINTS = 1


def only(options: Options, *known: str) -> None:
    """No other options than these."""
    if unknown := [key for key in options if key not in known]:
        takes = f"it takes {_listed(known)}" if known else "it takes none"
        raise ValueError(f"{_listed(unknown)} is no option of this rule: {takes}")


def one_of(options: Options, *known: str) -> None:
    """At least one of these, as the rule does nothing without."""
    if not any(key in options for key in known):
        raise ValueError(f"it needs {_listed(known, 'or')}")


def number(options: Options, key: str, least: float, most: float) -> None:
    """If given, a number within bounds."""
    value = options.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{key!r} must be a number from {least:,} to {most:,}")


def points(options: Options) -> None:
    """If given, points of quality."""
    number(options, "points", 0, MOST_POINTS)


def whole(options: Options, key: str, least: int, most: int) -> None:
    """If given, a whole number within bounds."""
    value = options.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{key!r} must be a whole number from {least:,} to {most:,}")


def one_word(options: Options, key: str, words: Iterable[str]) -> None:
    """If given, one of these words."""
    known = tuple(words)
    if key in options and options[key] not in known:
        raise ValueError(f"{key!r} must be {_listed(known, 'or')}")


def texts(options: Options, key: str, *, longest: int = LONGEST_NAME, most: int = MOST_NAMES) -> None:
    """If given, a list of texts that is not empty."""
    if key not in options:
        return
    value = options[key]
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= most:
        raise ValueError(f"{key!r} must be a list of 1 to {most} texts")
    if not all(is_text(item, longest) for item in value):
        raise ValueError(f"each of {key!r} must be a text of 1 to {longest:,} characters")


def words_of(options: Options, key: str, words: Iterable[str]) -> None:
    """If given, one of these words or a list of them."""
    if key not in options:
        return
    known = tuple(words)
    value = options[key]
    listed = value if isinstance(value, list | tuple) else (value,)
    if not listed or not all(word in known for word in listed):
        raise ValueError(f"{key!r} must be one or several of {_listed(known)}")


def is_text(value: Any, longest: int = LONGEST_NAME) -> bool:
    """Whether it is a text that says something and is not too long."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= longest


def _listed(names: Iterable[str], last: str = "and") -> str:
    quoted = [repr(name) for name in names]
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}" if len(quoted) > 1 else "".join(quoted)
