"""Vendors' exports as rows of one shape. Columns may stand in any order, and unknown ones are passed over."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from gateway.wire.types import TOKEN_CLASSES

ALL: Final = ""
"""Stands for every model, or every token class, where an export does not tell them apart."""

OTHER: Final = "other"
"""What is billed and is no class of tokens: searches, storage, containers."""

CLASSES: Final = tuple(name for name in TOKEN_CLASSES if name != "reasoning")
"""As vendors' exports have them: reasoning is a part of the output."""

Cells = Mapping[str, str]


class ExportError(Exception):
    """A file that cannot be understood; the message says where and why."""


@dataclass(frozen=True, slots=True)
class ExportRow:
    """What a vendor counted or billed: ``tokens`` or ``usd`` is None where the export does not say.

    ``key`` and ``project`` are the vendor's ids or names of an API key and of a project or workspace.
    """

    day: date
    model: str
    token_class: str
    tokens: int | None = None
    usd: Decimal | None = None
    key: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class Export:
    """A file's rows. ``precision`` is the smallest step of its amounts of USD."""

    format: str
    rows: list[ExportRow]
    precision: Decimal


def read_export(path: Path, format: str = "auto") -> Export:
    """Read a CSV file (commas, semicolons or tabs, with or without byte order mark). Raises ExportError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ExportError(f"{path}: {exc.strerror}.") from None
    except UnicodeDecodeError:
        raise ExportError(f"{path} is not a text file in UTF-8.") from None
    lines = text.splitlines()
    if not lines:
        raise ExportError(f"{path} is empty.")
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.DictReader(lines, delimiter=delimiter, restval="")
    reader.fieldnames = [_column(name) for name in reader.fieldnames or ()]
    chosen = _detect(set(reader.fieldnames)) if format == "auto" else format
    _require(path, chosen, set(reader.fieldnames))
    rows: list[ExportRow] = []
    steps = [0]
    for cells in reader:
        try:
            found = list(_READERS[chosen](cells))
        except (ValueError, ArithmeticError) as exc:
            raise ExportError(f"{path}:{reader.line_num}: {exc}") from None
        rows += found
        steps += [_decimals(row.usd) for row in found if row.usd]
    return Export(chosen, rows, Decimal(1).scaleb(-max(steps)))


def _column(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def _decimals(usd: Decimal) -> int:
    exponent = usd.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


# ---------------------------------------------------------------------------- cells


def _day(cells: Cells, *columns: str) -> date:
    """UTC; a time may be in seconds since 1970."""
    text = _first(cells, *columns)
    try:
        if text.isdigit() and len(text) > 8:
            return datetime.fromtimestamp(int(text), UTC).date()
        moment = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        raise ValueError(f"'{text}' is not a date.") from None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).date()


def _first(cells: Cells, *columns: str) -> str:
    """The first of these columns that holds something."""
    return next((text for column in columns if (text := (cells.get(column) or "").strip())), "")


def _tokens(cells: Cells, *columns: str) -> int:
    text = _first(cells, *columns).replace(",", "").replace("_", "")
    if not text:
        return 0
    try:
        count = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"'{text}' is not a number of tokens.") from None
    if count != count.to_integral_value():
        raise ValueError(f"'{text}' is not a whole number of tokens.")
    return int(count)


def _usd(cells: Cells, column: str) -> Decimal:
    text = _first(cells, column).lstrip("$").replace(",", "")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"'{text}' is not an amount of USD.") from None


def _rows(row: ExportRow, counts: Mapping[str, int]) -> Iterator[ExportRow]:
    for name, tokens in counts.items():
        if tokens:
            yield ExportRow(row.day, row.model, name, tokens, None, row.key, row.project)


# ---------------------------------------------------------------------------- formats


def _openai_usage(cells: Cells) -> Iterator[ExportRow]:
    """Minutes, hours or days without use have a row without a model."""
    model = _first(cells, "model")
    if not model:
        return
    about = ExportRow(
        _day(cells, "start_time_iso", "start_time"), model, ALL,
        key=_first(cells, "api_key_id"), project=_first(cells, "project_id"),
    )  # fmt: skip
    cached, written = _tokens(cells, "input_cached_tokens"), _tokens(cells, "input_cache_write_tokens")
    audio_in, audio_out = _tokens(cells, "input_audio_tokens"), _tokens(cells, "output_audio_tokens")
    heard_in = audio_in if _includes_audio(cells, "input") else 0
    heard_out = audio_out if _includes_audio(cells, "output") else 0
    yield from _rows(
        about,
        {
            "input": _tokens(cells, "input_tokens") - cached - written - heard_in,
            "cached_input": cached,
            "cache_write_5m": written,
            "output": _tokens(cells, "output_tokens") - heard_out,
            "audio_input": audio_in,
            "audio_output": audio_out,
        },
    )


def _includes_audio(cells: Cells, side: str) -> bool:
    """Where text is counted by itself, the total is of every modality; else it is of text alone."""
    text = _first(cells, f"{side}_text_tokens")
    return bool(text) and _tokens(cells, f"{side}_tokens") > _tokens(cells, f"{side}_text_tokens")


_LINE_ITEM: Final = re.compile(r"(?:\w+ \| )?(?P<model>\S+?)(?P<audio> audio)?(?: \w+)?, ?(?P<class>[a-z_ ]+?)(?:,.*)?")
_LINE_ITEM_CLASSES: Final = {
    "input": "input",
    "input tokens": "input",
    "cached input": "cached_input",
    "cached input tokens": "cached_input",
    "cache writes": "cache_write_5m",
    "output": "output",
    "output tokens": "output",
}


def _openai_cost(cells: Cells) -> Iterator[ExportRow]:
    """A day without cost has a row without an amount."""
    if not _first(cells, "amount_value"):
        return
    if (currency := _first(cells, "amount_currency").lower()) not in ("", "usd"):
        raise ValueError(f"the amount is in {currency}, not in USD.")
    item = _first(cells, "line_item")
    model, name = _line_item(item) if item else (ALL, ALL)
    counted = "token" in _first(cells, "quantity_unit").lower() and _first(cells, "quantity")
    yield ExportRow(
        _day(cells, "start_time_iso", "start_time"), model, name,
        _tokens(cells, "quantity") if counted else None, _usd(cells, "amount_value"),
        _first(cells, "api_key_id"), _first(cells, "project_id", "project_name"),
    )  # fmt: skip


def _line_item(item: str) -> tuple[str, str]:
    """``gpt-5-nano-2025-08-07, cached input`` and the like; anything else is billed by itself."""
    found = _LINE_ITEM.fullmatch(item)
    name = _LINE_ITEM_CLASSES.get(found["class"].replace("_", " ").strip()) if found else None
    if found is None or name is None:
        return item, OTHER
    return found["model"], f"audio_{name}" if found["audio"] and name in ("input", "output") else name


def _anthropic_usage(cells: Cells) -> Iterator[ExportRow]:
    about = ExportRow(
        _day(cells, "usage_date_utc"), _first(cells, "model_version", "model"), ALL,
        key=_first(cells, "api_key_id", "api_key"), project=_first(cells, "workspace"),
    )  # fmt: skip
    yield from _rows(
        about,
        {
            "input": _tokens(cells, "usage_input_tokens_no_cache"),
            "cached_input": _tokens(cells, "usage_input_tokens_cache_read"),
            "cache_write_5m": _tokens(cells, "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write"),
            "cache_write_1h": _tokens(cells, "usage_input_tokens_cache_write_1h"),
            "output": _tokens(cells, "usage_output_tokens"),
        },
    )


_TOKEN_TYPES: Final = {
    "input_no_cache": "input",
    "input_cache_read": "cached_input",
    "input_cache_write_5m": "cache_write_5m",
    "input_cache_write_1h": "cache_write_1h",
    "output": "output",
}


def _anthropic_cost(cells: Cells) -> Iterator[ExportRow]:
    kind = _first(cells, "token_type").lower()
    yield ExportRow(
        _day(cells, "usage_date_utc"), _first(cells, "model") or _first(cells, "cost_type"),
        _TOKEN_TYPES.get(kind, OTHER), None, _usd(cells, "cost_usd"),
        _first(cells, "api_key_id", "api_key"), _first(cells, "workspace"),
    )  # fmt: skip


def _generic(cells: Cells) -> Iterator[ExportRow]:
    """A row a model and day: tokens by class, USD, or both."""
    about = ExportRow(
        _day(cells, "date", "day", "time"), _first(cells, "model"), ALL,
        key=_first(cells, "api_key", "key"), project=_first(cells, "project", "workspace"),
    )  # fmt: skip
    yield from _rows(about, {name: _tokens(cells, f"{name}_tokens") for name in CLASSES})
    if _first(cells, "cost_usd"):
        yield ExportRow(about.day, about.model, ALL, None, _usd(cells, "cost_usd"), about.key, about.project)


_READERS: Final[dict[str, Callable[[Cells], Iterator[ExportRow]]]] = {
    "openai-usage": _openai_usage,
    "openai-cost": _openai_cost,
    "anthropic-usage": _anthropic_usage,
    "anthropic-cost": _anthropic_cost,
    "generic": _generic,
}
FORMATS: Final = ("auto", *_READERS)

# Of each group at least one column has to be there.
_REQUIRED: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "openai-usage": (("start_time_iso", "start_time"), ("model",), ("input_tokens",), ("output_tokens",)),
    "openai-cost": (("start_time_iso", "start_time"), ("amount_value",)),
    "anthropic-usage": (
        ("usage_date_utc",), ("model_version", "model"), ("usage_input_tokens_no_cache",), ("usage_output_tokens",),
    ),
    "anthropic-cost": (("usage_date_utc",), ("model",), ("token_type",), ("cost_usd",)),
    "generic": (
        ("date", "day", "time"), ("model",), ("cost_usd", *(f"{name}_tokens" for name in CLASSES)),
    ),
}  # fmt: skip


def _detect(columns: set[str]) -> str:
    """The format these columns look like, by what no other one has."""
    if "usage_date_utc" in columns:
        return "anthropic-cost" if "token_type" in columns else "anthropic-usage"
    if "amount_value" in columns:
        return "openai-cost"
    return "openai-usage" if columns & {"start_time", "start_time_iso"} else "generic"


def _require(path: Path, format: str, columns: Iterable[str]) -> None:
    present = set(columns)
    for group in _REQUIRED[format]:
        if not present.intersection(group):
            raise ExportError(f"{path}, read as {format}, has no column {' or '.join(map(repr, group))}.")
