"""The ledger as a file: one line per attempt, as JSON lines or CSV, in constant memory however long it is."""

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, Protocol

import msgspec
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce

from billing.models import Attempt, Settlement
from tenants.models import Tenant

Format = Literal["jsonl", "csv"]
FORMATS: Final[tuple[Format, ...]] = ("jsonl", "csv")
COLUMNS: Final = (
    "request_id",
    "attempt_id",
    "tenant",
    "project",
    "token",
    "provider",
    "model",
    "vendor_model",
    "purpose",
    "state",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "price_version",
    "estimated",
    "started_at",
    "settled_at",
    "service_tier",
)
OPEN: Final = "open"
_ROWS_AT_A_TIME: Final = 2000
_STARTS_A_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Out(Protocol):
    """What is written to: a text file, or a command's output."""

    def write(self, text: str, /) -> object: ...


def export(
    out: Out,
    *,
    format: Format = "jsonl",
    tenant: Tenant | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Write every attempt that started in ``[since, until)`` to ``out``, oldest first; returns how many.

    Token classes are disjoint. An attempt that is not settled is ``open`` and has neither tokens nor cost; a
    cost is a decimal string, and null (CSV: empty) where the price is unknown. ``estimated``: the vendor did
    not say what was used. ``service_tier``: in which of its tiers it says it served the call ("": the standard
    one). In CSV, text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    write = _json_lines(out) if format == "jsonl" else _csv_lines(out)
    count = 0
    with transaction.atomic():  # a server-side cursor lives as long as its transaction
        for values in _attempts(tenant, since, until).iterator(chunk_size=_ROWS_AT_A_TIME):
            write(_line(values))
            count += 1
    return count


def _attempts(tenant: Tenant | None, since: datetime | None, until: datetime | None) -> QuerySet[Attempt, Any]:
    attempts = Attempt.objects.order_by("id")
    if tenant is not None:
        attempts = attempts.filter(tenant=tenant)
    if since is not None:
        attempts = attempts.filter(started_at__gte=since)
    if until is not None:
        attempts = attempts.filter(started_at__lt=until)
    return attempts.values(
        "request_id",
        "vendor_model",
        "purpose",
        "started_at",
        attempt_id=F("id"),
        tenant_slug=F("tenant__slug"),
        project_slug=F("project__slug"),
        token_name=F("token__name"),
        provider_name=F("provider__name"),
        model_name=F("model__name"),
        outcome=F("settlement__outcome"),
        input_tokens=F("settlement__input_tokens"),
        cached_input_tokens=F("settlement__cached_input_tokens"),
        cache_write_tokens=F("settlement__cache_write_5m_tokens") + F("settlement__cache_write_1h_tokens"),
        output_tokens=F("settlement__output_tokens"),
        reasoning_tokens=F("settlement__reasoning_tokens"),
        usage_source=F("settlement__usage_source"),
        service_tier=F("settlement__service_tier"),
        cost_usd=F("settlement__cost_usd"),
        price=Coalesce("settlement__price_version_id", "price_version_id"),
        settled_at=F("settlement__settled_at"),
    )


def _line(values: dict[str, Any]) -> dict[str, Any]:
    """A row by :data:`COLUMNS`, in their order."""
    settled = values["outcome"] is not None
    renamed = values | {
        "tenant": values["tenant_slug"],
        "project": values["project_slug"],
        "token": values["token_name"],
        "provider": values["provider_name"],
        "model": values["model_name"],
        "state": values["outcome"] or OPEN,
        "cost_usd": _plain(values["cost_usd"]),
        "price_version": values["price"],
        "estimated": values["usage_source"] != Settlement.UsageSource.VENDOR if settled else None,
        "started_at": _utc(values["started_at"]),
        "settled_at": _utc(values["settled_at"]),
    }
    return {column: renamed[column] for column in COLUMNS}


def _plain(amount: Decimal | None) -> str | None:
    """Without exponent and trailing zeros."""
    return None if amount is None else format(amount.normalize(), "f")


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _json_lines(out: Out) -> Callable[[dict[str, Any]], None]:
    encoder = msgspec.json.Encoder()

    def write(line: dict[str, Any]) -> None:
        out.write(encoder.encode(line).decode() + "\n")

    return write


def _csv_lines(out: Out) -> Callable[[dict[str, Any]], None]:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(line: dict[str, Any]) -> None:
        writer.writerow(_cells(line))

    return write


def _cells(line: dict[str, Any]) -> Iterator[Any]:
    for value in line.values():
        if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA):
            yield f"'{value}"
        elif isinstance(value, bool):
            yield "true" if value else "false"
        else:
            yield value
