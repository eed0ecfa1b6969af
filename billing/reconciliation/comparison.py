"""Puts a vendor's export beside the ledger and says where, by how much and why they differ."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from itertools import combinations
from typing import Final
from uuid import UUID

from billing.reconciliation.causes import Cause, Compared, find_cause
from billing.reconciliation.exports import ALL, Export, ExportRow
from billing.reconciliation.lines import Cell, Sums, sum_lines

TOLERANCE_PERCENT: Final = Decimal("0.5")
MEASURES: Final = ("tokens", "usd")
_MOST_KEYS_TRIED: Final = 10
_DATED: Final = re.compile(r"[-@](20\d{6}|20\d\d-\d\d-\d\d|latest)$")


class NothingToCompare(Exception):
    """The export has no rows in the range asked for."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One cell in which both disagree. ``amount`` is the vendor's less ours; ``model`` and ``token_class`` are
    empty where the export does not tell them apart."""

    day: date
    model: str
    token_class: str
    measure: str
    ours: Decimal
    theirs: Decimal
    cause: Cause
    detail: str

    @property
    def amount(self) -> Decimal:
        return self.theirs - self.ours


@dataclass(slots=True)
class Total:
    """Of one measure over all cells; ``unexplained`` adds up what is left without a harmless cause, either way."""

    ours: Decimal = Decimal(0)
    theirs: Decimal = Decimal(0)
    unexplained: Decimal = Decimal(0)

    @property
    def unexplained_percent(self) -> Decimal:
        whole = max(self.ours, self.theirs)
        return self.unexplained * 100 / whole if whole else Decimal(0)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """``not_ours`` are keys and projects that the ledger does not know, with what the vendor counted for them by
    measure: taken out before comparing. ``guessed``: nobody said so, but without them both agree."""

    format: str
    first: date
    last: date
    tolerance_percent: Decimal
    totals: dict[str, Total]
    differences: list[Difference]
    not_ours: dict[str, dict[str, Decimal]] = field(default_factory=dict)
    guessed: bool = False

    @property
    def agrees(self) -> bool:
        return all(total.unexplained_percent <= self.tolerance_percent for total in self.totals.values())


def reconcile(
    export: Export,
    providers: Sequence[UUID],
    *,
    first: date | None = None,
    last: date | None = None,
    known: Collection[str] = (),
    tolerance_percent: Decimal = TOLERANCE_PERCENT,
) -> Reconciliation:
    """Compare an export with the ledger of ``providers``, days in UTC, from ``first`` through ``last`` (default: the
    export's own).

    ``known`` are the vendor's ids or names of the keys and projects that are ours. Without them, keys are presumed
    to be another's when what is left agrees with the ledger. Raises NothingToCompare.
    """
    rows = [row for row in export.rows if (not first or row.day >= first) and (not last or row.day <= last)]
    if not rows:
        raise NothingToCompare("The export has no rows in this range.")
    first, last = first or min(row.day for row in rows), last or max(row.day for row in rows)
    names = _Names(row.model for row in rows)
    ours = _grouped(sum_lines(providers, first, last), names)
    foreign = _named_as_foreign(rows, known) if known else _presumed_foreign(rows, ours, tolerance_percent)
    kept = [row for row in rows if _owner(row) not in foreign]
    comparisons = [_Comparison(measure, kept, ours, names, export.precision) for measure in _measures(kept or rows)]
    result = Reconciliation(
        export.format, first, last, tolerance_percent, {}, [],
        {_label(owner): _amounts(row for row in rows if _owner(row) == owner) for owner in sorted(foreign)},
        guessed=bool(foreign) and not known,
    )  # fmt: skip
    for comparison in comparisons:
        total, differences = comparison.run(tolerance_percent)
        result.totals[comparison.measure] = total
        result.differences.extend(differences)
    return result


class _Names:
    """Vendors write one model in several ways (``Claude Sonnet 4.5``, ``claude-sonnet-4-5-20250929``): names with the
    same words, dates aside, are taken for the same model."""

    def __init__(self, vendors: Iterable[str]) -> None:
        self._labels: dict[str, str] = {}
        for name in vendors:
            self.group(name)

    def group(self, name: str) -> str:
        """What all ways to write this name have in common, as a label."""
        words = " ".join(sorted(re.findall(r"[a-z0-9]+", _DATED.sub("", name.strip().lower()))))
        return self._labels.setdefault(words, name)


def _grouped(cells: Mapping[Cell, Sums], names: _Names) -> dict[Cell, Sums]:
    grouped: dict[Cell, Sums] = {}
    for (day, model, token_class), sums in cells.items():
        _add(grouped.setdefault((day, names.group(model), token_class), Sums()), sums)
    return grouped


def _add(into: Sums, sums: Sums) -> None:
    into.tokens += sums.tokens
    into.usd += sums.usd
    into.estimated += sums.estimated
    into.unpriced += sums.unpriced


# ------------------------------------------------------------------- whose use it is

_Owner = tuple[str, str]


def _owner(row: ExportRow) -> _Owner:
    return row.key, row.project


def _label(owner: _Owner) -> str:
    return " of ".join(part for part in owner if part) or "without a key"


def _named_as_foreign(rows: Iterable[ExportRow], known: Collection[str]) -> set[_Owner]:
    owners = {_owner(row) for row in rows}
    return {owner for owner in owners if any(owner) and not set(owner) & set(known)}


def _presumed_foreign(rows: list[ExportRow], ours: Mapping[Cell, Sums], tolerance_percent: Decimal) -> set[_Owner]:
    """The fewest keys without which the totals agree, when they do not agree with them."""
    measure = _measures(rows)[0]
    whole = sum((Decimal(getattr(sums, measure)) for sums in ours.values()), Decimal(0))
    by_owner: dict[_Owner, Decimal] = defaultdict(Decimal)
    for row in rows:
        by_owner[_owner(row)] += _amount(row, measure)
    close = whole * tolerance_percent / 100
    surplus = sum(by_owner.values(), Decimal(0)) - whole
    if not whole or surplus <= close:
        return set()
    candidates = sorted((owner for owner in by_owner if any(owner)), key=lambda owner: -by_owner[owner])
    candidates = candidates[:_MOST_KEYS_TRIED]
    for count in range(1, min(len(candidates), len(by_owner) - 1) + 1):
        best = min(
            combinations(candidates, count), key=lambda some: abs(surplus - sum(by_owner[each] for each in some))
        )
        if abs(surplus - sum(by_owner[each] for each in best)) <= close:
            return set(best)
    return set()


def _amount(row: ExportRow, measure: str) -> Decimal:
    return Decimal((row.tokens if measure == "tokens" else row.usd) or 0)


def _amounts(rows: Iterable[ExportRow]) -> dict[str, Decimal]:
    listed = list(rows)
    return {measure: sum((_amount(row, measure) for row in listed), Decimal(0)) for measure in _measures(listed)}


def _measures(rows: Iterable[ExportRow]) -> list[str]:
    """What the export can be compared by; tokens that stand beside some amounts only are no sum of anything."""
    listed = list(rows)
    patchy = any(row.usd is not None and row.token_class != ALL for row in listed)
    has_tokens = any(row.tokens is not None for row in listed) and not patchy
    has_usd = any(row.usd is not None for row in listed)
    return [measure for measure, there in zip(MEASURES, (has_tokens, has_usd), strict=True) if there]


# ---------------------------------------------------------------------- cell by cell


class _Comparison:
    """Both sides of one measure, as finely as the export has it."""

    def __init__(
        self, measure: str, rows: Iterable[ExportRow], ours: Mapping[Cell, Sums], names: _Names, precision: Decimal
    ) -> None:
        self.measure = measure
        listed = list(rows)
        measured = [row for row in listed if getattr(row, measure) is not None]
        by_model = any(row.model for row in measured)
        by_class = any(row.token_class for row in measured)

        def cell(day: date, model: str, token_class: str) -> Cell:
            return day, model if by_model else ALL, token_class if by_class else ALL

        self.cells: dict[Cell, Compared] = defaultdict(Compared)
        for row in measured:
            found = self.cells[cell(row.day, names.group(row.model) if row.model else ALL, row.token_class)]
            found.theirs += _amount(row, measure)
            found.rounding += precision if measure == "usd" else 0
        for row in listed:
            here = cell(row.day, names.group(row.model) if row.model else ALL, row.token_class)
            if row.tokens is not None and here in self.cells:
                self.cells[here].vendor_tokens = (self.cells[here].vendor_tokens or 0) + row.tokens
        for (day, model, token_class), sums in ours.items():
            found = self.cells[cell(day, model, token_class)]
            found.ours += Decimal(getattr(sums, measure))
            _add(found.sums, sums)

    def run(self, tolerance_percent: Decimal) -> tuple[Total, list[Difference]]:
        total, differences = Total(), []
        series: dict[tuple[str, str], dict[date, Compared]] = defaultdict(dict)
        for (day, model, token_class), compared in self.cells.items():
            series[model, token_class][day] = compared
        for (day, model, token_class), compared in sorted(self.cells.items()):
            total.ours += compared.ours
            total.theirs += compared.theirs
            if compared.theirs == compared.ours:
                continue
            cause, detail = find_cause(
                self.measure, day, token_class, series[model, token_class], tolerance_percent / 100
            )
            if not cause.is_harmless:
                total.unexplained += abs(compared.theirs - compared.ours)
            differences.append(
                Difference(day, model, token_class, self.measure, compared.ours, compared.theirs, cause, detail)
            )
        return total, differences
