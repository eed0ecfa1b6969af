"""Why a vendor's figure and ours are likely to differ."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from billing.reconciliation.exports import OTHER
from billing.reconciliation.lines import Sums

MILLION: Final = 10**6
_SAME_RATIO: Final = Decimal("0.01")  # from day to day
_DAY: Final = timedelta(days=1)


class Cause(enum.Enum):
    ROUNDING = "rounding"
    NEIGHBOURING_DAY = "counted on the neighbouring day"
    ESTIMATES = "estimates"
    NOT_TOKENS = "not tokens"
    MISSING_LINES = "missing lines"
    NOT_EXPORTED = "not in the export"
    UNPRICED = "no known price"
    PRICE = "price"
    UNEXPLAINED = "unexplained"

    @property
    def is_harmless(self) -> bool:
        """Whether it says nothing against the ledger."""
        return self in _HARMLESS


_HARMLESS: Final = {Cause.ROUNDING, Cause.NEIGHBOURING_DAY, Cause.ESTIMATES, Cause.NOT_TOKENS}


@dataclass(slots=True)
class Compared:
    """Both sides of a cell. ``vendor_tokens``: as the export has them beside its amounts, None where it does not;
    ``rounding``: what the export's amounts may be off by."""

    ours: Decimal = Decimal(0)
    theirs: Decimal = Decimal(0)
    sums: Sums = field(default_factory=Sums)
    vendor_tokens: int | None = None
    rounding: Decimal = Decimal(0)

    @property
    def difference(self) -> Decimal:
        return self.theirs - self.ours


def find_cause(
    measure: str, day: date, token_class: str, days: Mapping[date, Compared], tolerance: Decimal
) -> tuple[Cause, str]:
    """The likeliest cause in one cell, and its figures. ``days`` are those of the same model and token class;
    ``tolerance`` is a share of 1."""
    cell = days[day]
    if abs(cell.difference) <= cell.rounding:
        return Cause.ROUNDING, f"amounts are rounded to {cell.rounding:f} USD in all"
    if _moved(day, days, tolerance):
        return Cause.NEIGHBOURING_DAY, "over all days both agree"
    if not cell.ours:
        return _nothing_of_ours(cell, token_class)
    if not cell.theirs:
        return Cause.NOT_EXPORTED, "the vendor does not list what we have"
    if measure == "tokens":
        return _estimated(cell, Decimal(cell.sums.estimated)) or (Cause.UNEXPLAINED, "")
    return _cause_of_money(cell, days, tolerance)


def _nothing_of_ours(cell: Compared, token_class: str) -> tuple[Cause, str]:
    if token_class == OTHER:
        return Cause.NOT_TOKENS, "billed for something the gateway does not meter"
    if cell.sums.unpriced:
        return Cause.UNPRICED, f"{cell.sums.unpriced} tokens: import_prices, then reprice"
    if cell.sums.tokens:
        return Cause.PRICE, "free in our price book"
    return Cause.MISSING_LINES, "the ledger has none"


def _cause_of_money(cell: Compared, days: Mapping[date, Compared], tolerance: Decimal) -> tuple[Cause, str]:
    if cell.sums.unpriced:
        return Cause.UNPRICED, f"{cell.sums.unpriced} tokens: import_prices, then reprice"
    implied = ""
    if tokens := cell.vendor_tokens or cell.sums.tokens:
        our_price = cell.ours * MILLION / (cell.sums.tokens or tokens)
        implied = f"implied {cell.theirs * MILLION / tokens:.4f} USD per million, ours {our_price:.4f}"
    if cell.vendor_tokens is not None and abs(cell.vendor_tokens - cell.sums.tokens) <= tolerance * cell.sums.tokens:
        return Cause.PRICE, f"tokens agree; {implied}"
    if cell.sums.tokens and (estimated := _estimated(cell, cell.ours * cell.sums.estimated / cell.sums.tokens)):
        return estimated
    if cell.vendor_tokens is None and _always_by_the_same_factor(days):
        return Cause.PRICE, f"by the same factor every day; {implied}"
    return Cause.UNEXPLAINED, implied


def _estimated(cell: Compared, at_stake: Decimal) -> tuple[Cause, str] | None:
    """Whether our estimates, being wrong altogether at worst, can be the whole difference."""
    if not at_stake or abs(cell.difference) > at_stake:
        return None
    share = Decimal(100) * cell.sums.estimated / cell.sums.tokens
    return Cause.ESTIMATES, f"{share:.1f} % of our tokens are estimates"


def _moved(day: date, days: Mapping[date, Compared], tolerance: Decimal) -> bool:
    """A call that runs over midnight is counted on either day: what one has too much another lacks."""
    mine = days[day].difference
    opposite = any(
        neighbour in days and days[neighbour].difference * mine < 0 for neighbour in (day - _DAY, day + _DAY)
    )
    left = abs(sum((each.difference for each in days.values()), Decimal(0)))
    whole = sum((each.theirs for each in days.values()), Decimal(0))
    return opposite and left <= tolerance * whole


def _always_by_the_same_factor(days: Mapping[date, Compared]) -> bool:
    ratios = [each.theirs / each.ours for each in days.values() if each.ours]
    return len(ratios) > 1 and max(ratios) - min(ratios) <= _SAME_RATIO * max(ratios)
