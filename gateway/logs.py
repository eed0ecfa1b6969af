"""The one place that decides what a log line looks like, and what may not stand in it.

Every logger of the process, ours, Django's, uvicorn's, Celery's, ends at one handler whose formatter masks what looks
like a secret and renders the line: ``console`` for people, ``json`` for machines. Only lines that are written cost
anything. Imported by the settings, so nothing here imports Django or a module of ours.
"""

import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

FORMATS: Final = ("console", "json")
LEVELS: Final = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
MASK: Final = "***"
MAX_TEXT: Final = 16_384  # characters of one field: a line stays readable, and masking takes a bounded time

_OVERLAP = 2048  # looked at beyond the cut and not shown: what stands across the end of a text is not recognised
_MAX_DEPTH = 4
_HEAD = ("timestamp", "level", "logger", "event", "request_id", "tenant")
_OURS = ("timestamp", "level")  # nobody else's text
_FORMER_OWNERS = ("django", "django.server", "uvicorn", "uvicorn.error")  # bring handlers of their own
_CHATTY = ("httpcore", "httpx", "django.template")  # at DEBUG and INFO they tell addresses and headers of each call
# Attributes that every record has, and two whose content the message repeats.
_NOT_EXTRA = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message", "request"}
_COLOURS = {"debug": 2, "info": 32, "warning": 33, "error": 31, "critical": 35}

_SECRET_NAMES = (
    "password", "passwd", "secret", "api_key", "api-key", "apikey", "goog-key", "authorization", "cookie", "credential",
    "private_key", "private-key", "sessionid", "csrftoken", "peppers", "master_keys", "access_token", "auth_token",
    "api_token", "refresh_token", "id_token",
)  # fmt: skip
_IN_QUERIES = ("?key=", "&key=", "?token=", "&token=")
_VENDOR_KEYS = ("sk-", "AIza", "gsk_", "xai-", "hf_", "nvapi-", "whsec_")
# Repetitions are bounded, as what is masked may have been written by somebody who means harm.
_BEARER = re.compile(r"(bearer(?:\s|\\[nrt]){1,8})\S{8,}", re.IGNORECASE)
_NAMED = re.compile(
    rf"((?:{'|'.join(_SECRET_NAMES)})[\w-]{{0,32}}"
    r"(?:\\{0,3}[\"']?\s{0,4}[:=]|\\{0,3}[\"']\s{0,4},)\s{0,4}"  # the comma: lists of header pairs
    r"|[?&](?:key|token)=)"
    r"(?:b?\\{0,3}([\"'])(?:(?!\2).){1,1024}\2?\S{0,1024}|(?:(?:bearer|basic|token)\s{1,4})?\S+)",
    re.IGNORECASE | re.DOTALL,
)
_URL_PASSWORD = re.compile(r"(://[^\s/?#@:]{0,256}:)\S{1,1024}@")
_TOKEN = re.compile(r"gw_([0-9A-Za-z]{12}_)?[\w-]{12,}", re.ASCII)
_VENDOR_KEY = re.compile(rf"(?<![0-9A-Za-z])sk-[\w-]{{4,}}|(?:{'|'.join(_VENDOR_KEYS)})[\w-]{{16,}}", re.ASCII)
_SHORTEST = 6  # characters: nothing shorter is masked


def logging_config(level: str, format: str) -> dict[str, Any]:
    """Django's ``LOGGING``: everything from ``level`` on goes to standard error as ``format`` ("console" | "json").

    Raises ValueError for a level or a format that does not exist.
    """
    level = level.upper()
    if level not in LEVELS:
        raise ValueError(f"LOG_LEVEL is one of {', '.join(LEVELS)}, not {level!r}")
    if format not in FORMATS:
        raise ValueError(f"LOG_FORMAT is one of {', '.join(FORMATS)}, not {format!r}")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{__name__}.line_formatter", "output": format}},
        "handlers": {
            # The level here as well: some libraries set their loggers' own.
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "level": level},
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            **{name: {"handlers": [], "propagate": True} for name in _FORMER_OWNERS},
            **{name: {"level": "WARNING"} for name in _CHATTY},
            # Where this one has a handler, uvicorn writes a line for every request.
            "uvicorn.access": {"handlers": [], "propagate": False},
        },
    }


def line_formatter(output: str) -> "LineFormatter":
    """The handler's formatter. Leads structlog's own loggers and Python's warnings there as well."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.captureWarnings(True)
    return LineFormatter(output)


class LineFormatter(ProcessorFormatter):
    """Renders a record of the standard library or of structlog. Never raises."""

    def __init__(self, output: str) -> None:
        render = structlog.processors.JSONRenderer() if output == "json" else _console_renderer()
        super().__init__(
            foreign_pre_chain=[merge_contextvars, _with_extra],
            processors=[_with_exception, _in_order, mask_secrets, render],
        )

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as exc:  # noqa: BLE001 - logging would print the record as it is, secrets and all
            return super().format(_unreadable(record, exc))


def bind_request(request_id: str, tenant: str | None = None) -> None:
    """Lines of the current task, and of tasks it starts from now on, carry these."""
    if tenant is None:
        bind_contextvars(request_id=request_id)
    else:
        bind_contextvars(request_id=request_id, tenant=tenant)


def clear_request() -> None:
    """For a task that outlives the request which happened to start it."""
    clear_contextvars()


# ----------------------------------------------------------------------------- secrets


def mask_secrets(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace what looks like a secret in every field, nested ones too, by ``***``; afterwards all of it is JSON."""
    return {
        name if name in _HEAD else masked(str(name)): value if name in _OURS else _masked_field(name, value, 0)
        for name, value in event_dict.items()
    }


def masked(text: str) -> str:
    """``text`` without tokens of ours (their public id stays), bearer credentials, vendor keys, values of what is
    called a password or the like, and passwords in URLs; cut at ``MAX_TEXT`` characters."""
    if len(text) < _SHORTEST:
        return text
    cut = len(text) > MAX_TEXT
    if cut:
        text = text[: MAX_TEXT + _OVERLAP]
    # Most lines hold nothing of the kind, and looking for words costs a tenth of looking for patterns.
    lowered = text.lower()
    if "bearer" in lowered:
        text = _BEARER.sub(rf"\1{MASK}", text)
    if _has_any(lowered, _SECRET_NAMES) or _has_any(lowered, _IN_QUERIES):
        text = _NAMED.sub(rf"\1{MASK}", text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{MASK}@", text)
    if "gw_" in text:
        text = _TOKEN.sub(rf"gw_\1{MASK}", text)
    if _has_any(text, _VENDOR_KEYS):
        text = _VENDOR_KEY.sub(MASK, text)
    return text[: max(0, min(MAX_TEXT, len(text) - _OVERLAP))] + "…" if cut else text


def _has_any(text: str, words: tuple[str, ...]) -> bool:
    for word in words:  # noqa: SIM110 - a generator costs more than the search
        if word in text:
            return True
    return False


def _is_secret_name(name: object) -> bool:
    return isinstance(name, str) and (name in ("key", "token") or _has_any(name.lower(), _SECRET_NAMES))


def _masked_field(name: object, value: object, depth: int) -> object:
    if _is_secret_name(name) and value not in (None, "", True, False):
        return MASK
    return _masked_value(value, depth)


def _masked_value(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {masked(str(key)): _masked_field(key, item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_masked_value(item, depth + 1) for item in value]
    return masked(repr(value) if isinstance(value, BaseException) else str(value))


# ----------------------------------------------------------------------------- the parts of a line


def _with_extra(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """What the call gave as ``extra``; a name that the line has already keeps its meaning."""
    record: logging.LogRecord = event_dict["_record"]
    for name, value in vars(record).items():
        if name not in _NOT_EXTRA and not (name == "data" and record.name.startswith("celery.")):  # tasks' arguments
            event_dict.setdefault(name, value)
    return event_dict


def _with_exception(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    refused = 400 <= getattr(event_dict["_record"], "status_code", 0) < 500  # Django tells where: that is no failure
    if refused or event_dict.get("exc_info") == (None, None, None):  # logger.exception() where nothing was raised
        event_dict.pop("exc_info", None)
    return structlog.processors.format_exc_info(logger, method, event_dict)


def _in_order(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    record: logging.LogRecord = event_dict.pop("_record")
    del event_dict["_from_structlog"]
    known = {
        **event_dict,
        "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": str(event_dict.get("event", "")),
    }
    head = {name: known.pop(name) for name in _HEAD if name in known}
    tail: EventDict = {name: known.pop(name) for name in ("stack_info", "exception") if name in known}
    return {**head, **known, **tail}


def _unreadable(record: logging.LogRecord, failure: Exception) -> logging.LogRecord:
    """What can be said of a record whose message, arguments or fields fail when they are read."""
    return logging.makeLogRecord(
        {
            "name": str(record.name),
            "levelno": record.levelno,
            "levelname": str(record.levelname),
            "created": record.created,
            "msg": "a log record of %s, line %s, cannot be rendered (%s)",
            "args": (record.pathname, record.lineno, type(failure).__name__),
            "template": record.msg if type(record.msg) is str else type(record.msg).__name__,
        }
    )


def _console_renderer() -> Callable[[WrappedLogger, str, EventDict], str]:
    return partial(_render_for_people, colours=sys.stderr is not None and sys.stderr.isatty())


def _render_for_people(_logger: WrappedLogger, _method: str, event_dict: EventDict, *, colours: bool) -> str:
    """One line, and below it, indented, the traceback."""
    fields = dict(event_dict)
    level = fields.pop("level")
    shown = f"{level.upper():<8}"
    if colours:
        shown = f"\x1b[{_COLOURS.get(level, 0)}m{shown}\x1b[0m"
    parts = [fields.pop("timestamp"), shown, fields.pop("logger"), _one_line(fields.pop("event"))]
    below = [fields.pop(name) for name in ("stack_info", "exception") if name in fields]
    parts += [f"{_one_line(name)}={_one_line(str(value))}" for name, value in fields.items()]
    lines = [" ".join(parts), *(f"    {_one_line(line)}" for text in below for line in str(text).split("\n"))]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """Nobody who is quoted in a line can begin another, or speak to the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
