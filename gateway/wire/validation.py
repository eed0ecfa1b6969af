"""Typed decoding of what a caller sent: a wrong type becomes a 400 that names the field."""

import re
from collections.abc import Mapping
from itertools import islice
from typing import TypeVar

import msgspec

from gateway.errors import InvalidRequest
from gateway.wire.types import MalformedJson, decode_fields

DEFAULT_MODEL = "auto"
MAX_MODEL_CHARS = 256
MAX_OUTPUT_TOKENS = 10_000_000  # far above any model: what is larger is a mistake, and would upset sums

MAX_UNKNOWN_FIELDS = 16
MAX_REASON_CHARS = 200

T = TypeVar("T")

_PATH = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_EMPTY = frozenset({b"null", b"false", b"{}", b"[]", b'""'})
_DEFAULTS = {"service_tier": (b'"auto"', b'"default"'), "truncation": (b'"disabled"',)}
_MISSING = re.compile(r"missing required field `([^`]+)`")


def decode_or_refuse(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw, param: str = "") -> T:
    """``data`` as the decoder's type; ``param`` is where in the request it stands ("" for the whole body).

    Raises InvalidRequest whose ``param`` is the full path of the value at fault (``messages[2].content``).
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _invalid(str(exc), param) from None


def body_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """Top-level fields of a caller's body. Raises InvalidRequest."""
    try:
        return decode_fields(body)
    except MalformedJson as exc:
        raise InvalidRequest(str(exc)) from None


def unknown_fields(fields: Mapping[str, msgspec.Raw], known: frozenset[str]) -> tuple[str, ...]:
    """Names of what is asked for beyond ``known``, without the fields that ask for nothing (null, empty, a default).

    They are told to the caller in a header, so there are few of them, and none is anything but a plain name.
    """
    unknown = (name for name in fields if name not in known and _PLAIN_NAME.fullmatch(name))
    return tuple(
        islice((name for name in unknown if _asks_for_anything(name, bytes(fields[name]))), MAX_UNKNOWN_FIELDS)
    )


def model_or_default(model: str | None) -> str:
    """The model a caller names; none at all leaves it to the router. Raises InvalidRequest."""
    if model and len(model) > MAX_MODEL_CHARS:
        raise InvalidRequest(f"'model' is longer than {MAX_MODEL_CHARS} characters.", param="model")
    return model or DEFAULT_MODEL


def data_url(url: str, at: str) -> tuple[str, str]:
    """Media type and base64 data of ``data:image/png;base64,...``. Raises InvalidRequest."""
    head, comma, data = url.partition(",")
    media_type, *parameters = head.removeprefix("data:").split(";")
    if not comma or "/" not in media_type or "base64" not in parameters or not data:
        raise InvalidRequest("A data: URL must be 'data:<media type>;base64,<data>'.", param=at)
    return media_type, data


def _asks_for_anything(name: str, value: bytes) -> bool:
    return value not in _EMPTY and value not in _DEFAULTS.get(name, ())


def _invalid(message: str, param: str) -> InvalidRequest:
    reason, path = message, param
    if found := _PATH.search(message):
        reason, inner = message[: found.start()], found[1]
        path = param + inner if inner.startswith("[") or not param else f"{param}.{inner}"
    if missing := _MISSING.search(reason):
        path = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidRequest(f"Missing required field '{path}'.", param=path)
    if len(reason) > MAX_REASON_CHARS:  # it quotes the value
        reason = f"{reason[:MAX_REASON_CHARS]}..."
    where = f" for '{path}'" if path else ""
    return InvalidRequest(f"Invalid value{where}: {reason[:1].lower()}{reason[1:]}.", param=path or None)
