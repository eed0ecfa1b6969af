"""Our own ledger, summed as vendors sum: per day (UTC), model and token class, at the price a line holds today."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.db.models import F, OuterRef, QuerySet, Subquery

from billing.models import Adjustment, PriceVersion, Settlement
from billing.pricing import Price, to_usd
from billing.reconciliation.exports import OTHER
from billing.verification import USAGE_COLUMNS, usage_of
from gateway.rows import first_id
from gateway.wire.types import TOKEN_CLASSES

_ROWS_AT_A_TIME: Final = 2000
_KEY_IS_NEAR: Final = timedelta(hours=1)

Cell = tuple[date, str, str]
"""Day, the vendor's model, token class."""


@dataclass(slots=True)
class Sums:
    """Of one cell. ``usd`` is at list price; ``unpriced`` and ``estimated`` are the tokens for which no price is
    known, and those the vendor did not count itself."""

    tokens: int = 0
    usd: Decimal = Decimal(0)
    estimated: int = 0
    unpriced: int = 0


def sum_lines(providers: Sequence[UUID], first: date, last: date) -> dict[Cell, Sums]:
    """What the ledger has of these providers from ``first`` through ``last``, by when calls ended."""
    prices: dict[UUID, Price] = {}
    cells: dict[Cell, Sums] = {}
    for line in _lines(providers, first, last).iterator(chunk_size=_ROWS_AT_A_TIME):
        day = line["ended_at"].astimezone(UTC).date()
        for token_class, sums in _split(line, _price(prices, line["repriced"] or line["price"])):
            into = cells.setdefault((day, line["vendor_model"], token_class), Sums())
            into.tokens += sums.tokens
            into.usd += sums.usd
            into.estimated += sums.estimated
            into.unpriced += sums.unpriced
    return cells


def _lines(providers: Sequence[UUID], first: date, last: date) -> QuerySet[Settlement, Any]:
    start = datetime.combine(first, time.min, UTC)
    end = datetime.combine(last + timedelta(days=1), time.min, UTC)
    repriced = Adjustment.objects.filter(attempt=OuterRef("attempt_id"), reason=Adjustment.Reason.REPRICE).order_by(
        "-id"
    )
    rows: QuerySet[Settlement, Any] = Settlement.objects.filter(
        attempt__provider__in=providers,
        attempt_id__gte=first_id(start - _KEY_IS_NEAR),
        attempt_id__lt=first_id(end + _KEY_IS_NEAR),
        ended_at__gte=start,
        ended_at__lt=end,
    ).order_by().values(
        "ended_at", "outcome", "cost_usd", "usage_source", *USAGE_COLUMNS,
        vendor_model=F("attempt__vendor_model"),
        price=F("price_version_id"),
        repriced=Subquery(repriced.values("price_version")[:1]),
    )  # fmt: skip
    return rows


def _price(prices: dict[UUID, Price], version: UUID | None) -> Price | None:
    if version is None:
        return None
    if version not in prices:
        prices[version] = PriceVersion.objects.get(pk=version).as_priced_version().price
    return prices[version]


def _split(line: dict[str, Any], price: Price | None) -> Iterator[tuple[str, Sums]]:
    """A line by token class."""
    usage = usage_of(line)
    of_each = price.token_prices(usage) if price else None
    for name in TOKEN_CLASSES:
        if not (tokens := getattr(usage, name)):
            continue
        usd = to_usd(tokens * getattr(of_each, name)) if of_each else Decimal(0)
        yield (
            "output" if name == "reasoning" else name,
            Sums(
                tokens,
                usd,
                0 if line["usage_source"] == Settlement.UsageSource.VENDOR else tokens,
                0 if price else tokens,
            ),
        )
    if price and price.per_request and line["cost_usd"]:
        yield OTHER, Sums(usd=to_usd(price.per_request))
