"""The gateway's own request options, which every dialect takes in the same two ways.

An option ``<name>`` comes as the body field ``x-<name>`` or as the header ``x-gateway-<name>`` (or, spelled with the
field's name, ``x-gateway-x-<name>``); the body wins.
Other ``x-`` fields are none of ours and stay in the body. The budget key alone may also come as the bare header
``x-budget-key``, which the others win over: names such as ``x-timeout`` and ``x-cache`` are sent by proxies and
libraries that mean something else by them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from gateway.errors import InvalidRequest
from gateway.wire.types import Extensions

MAX_TAGS = 32
MAX_TEXT_CHARS = 256
BARE_HEADER: Final = "x-budget-key"

_NONE_GIVEN: Final = Extensions()
_BODY_PREFIX = "x-"
_HEADER_PREFIX = "x-gateway-"


def take_extensions(fields: dict[str, Raw], headers: Mapping[str, str]) -> Extensions:
    """The options of one request; those in ``fields`` are removed from it. Header names are lower-case.

    ``null`` and an empty header count as not given. Raises InvalidRequest naming the field or header.
    """
    given: dict[str, Any] = {}
    if bare := headers.get(BARE_HEADER):
        _read(given, _OPTIONS["budget-key"], bare.strip() or None, BARE_HEADER)
    for header in headers:
        if not header.startswith(_HEADER_PREFIX):
            continue
        if option := _OPTIONS.get(header[len(_HEADER_PREFIX) :].removeprefix(_BODY_PREFIX)):
            _read(given, option, headers[header].strip() or None, header)
    for field in [name for name in fields if name.startswith(_BODY_PREFIX)]:
        if option := _OPTIONS.get(field[len(_BODY_PREFIX) :]):
            _read(given, option, msgspec.json.decode(fields.pop(field)), field)
    return Extensions(**given) if given else _NONE_GIVEN


def _read(given: dict[str, Any], option: tuple[str, Callable[[Any], Any]], value: Any, param: str) -> None:
    attribute, read = option
    if value is None:
        return
    try:
        given[attribute] = read(value)
    except ValueError as exc:
        raise InvalidRequest(f"Invalid value for '{param}': {exc}.", param=param) from None


def _strategy(value: Any) -> str:
    if value not in ("cost", "quality", "latency", "balanced"):
        raise ValueError("expected cost, quality, latency or balanced")
    return str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS or not value.isprintable():
        raise ValueError(f"expected 1 to {MAX_TEXT_CHARS} printable characters")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "1", "false", "0"):
        return value.lower() in ("true", "1")
    raise ValueError("expected true or false")


def _seconds(value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError("expected a positive number of seconds")
    return seconds


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [tag.strip() for tag in value.split(",") if tag.strip()]
    if not isinstance(value, list) or len(value) > MAX_TAGS:
        raise ValueError(f"expected a list of at most {MAX_TAGS} tags")
    return tuple(dict.fromkeys(_text(tag) for tag in value))


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "routing-strategy": ("routing_strategy", _strategy),
    "prefer-provider": ("prefer_provider", _text),
    "cache": ("cache", _flag),
    "budget-key": ("budget_key", _text),
    "task-type": ("task_type", _text),
    "complexity": ("complexity", _text),
    "tags": ("tags", _tags),
    "timeout": ("timeout_s", _seconds),
    "fallback": ("fallback", _flag),
    "session-id": ("session_id", _text),
}
