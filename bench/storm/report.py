"""The promises of the ledger with their figures, beside what the storm found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.storm.books import Balance, Findings
from bench.storm.callers import Asked

MOST_EXAMPLES = 5
FINAL_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """``kept`` None: no promise, but worth knowing. ``examples`` are a few of what contradicts it."""

    promise: str
    figure: str
    measured: str
    kept: bool | None
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    rows: list[Row]
    statuses: dict[int, int]
    seconds: float

    @property
    def kept(self) -> bool:
        return all(row.kept is not False for row in self.rows)

    def broken(self) -> list[Row]:
        return [row for row in self.rows if row.kept is False]

    def as_json(self) -> dict[str, Any]:
        return {"kept": self.kept, **asdict(self)}

    def as_text(self) -> str:
        titles = Row("promise", "figure", "measured", None)
        wide = [max(len(getattr(row, name)) for row in (titles, *self.rows)) for name in ("promise", "figure")]
        lines = []
        for row in (titles, *self.rows):
            verdict = {True: "kept", False: "BROKEN", None: ""}[row.kept]
            lines.append(f"{row.promise:<{wide[0]}}  {row.figure:>{wide[1]}}  {row.measured}  {verdict}".rstrip())
            lines += [f"    {example}" for example in row.examples]
        statuses = ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(self.statuses.items()))
        return "\n".join([*lines, "", f"statuses {statuses}; {self.seconds:.0f} s"])


def _none(promise: str, wrong: Sequence[str], of: int | None = None) -> Row:
    measured = str(len(wrong)) if of is None else f"{len(wrong)} of {of}"
    return Row(promise, "0", measured, not wrong, list(wrong[:MOST_EXAMPLES]))


def rows_of(
    found: Findings,
    balances: Sequence[Balance],
    proof: dict[str, Any],
    asked: Sequence[Asked],
    final_after_s: float | None,
) -> list[Row]:
    """``final_after_s``: from the last recovery to the last settlement; None where nobody waited for the reaper."""
    violations = [
        f"{finding['check']}: {example}"
        for finding in proof["findings"]
        if finding["severity"] == "violation"
        for example in finding["examples"]
    ]
    warnings = sum(finding["count"] for finding in proof["findings"] if finding["severity"] == "warning")
    return [
        _served(asked),
        Row("vendors' calls", "", str(found.calls), None),
        Row("of them not answered well", "~20 %", f"{found.faults / max(1, found.calls):.1%}", None),
        Row("attempts", "", str(found.attempts), None),
        _none("vendors' calls without an attempt", found.without_attempt, found.calls),
        _none("attempts with more than one call", found.duplicates),
        _none("attempts withdrawn, and sent all the same", found.withdrawn_but_sent),
        _none("tokens unequal where the vendor told usage", found.unequal, found.exact),
        _none("estimates beyond delivered <= recorded <= generated", found.out_of_bounds, found.estimated),
        _none("estimates not said to be any", found.not_said_to_be_estimated),
        Row("attempts abandoned, charged what was held", "", str(found.abandoned), None),
        _none("attempts abandoned by a living process", found.abandoned_by_the_living),
        _none("attempts that are never final", found.still_open),
        *_final(final_after_s),
        *(_balance(balance) for balance in balances),
        _none("violations that verify_ledger finds", violations),
        Row("its warnings", "", str(warnings), None),
        _none("answers said to be complete that are not", found.wrong_answers),
    ]


def statuses_of(asked: Sequence[Asked]) -> dict[int, int]:
    return dict(Counter(request.status for request in asked))


def _served(asked: Sequence[Asked]) -> Row:
    """Where next to nothing is answered, nothing is proven either."""
    served = sum(request.status == 200 for request in asked)
    return Row("requests answered with 200", ">= half", f"{served} of {len(asked)}", served * 2 >= len(asked))


def _final(after_s: float | None) -> list[Row]:
    if after_s is None:
        return []
    figure = f"<= {FINAL_WITHIN_S:.0f} s"
    return [Row("all final after the last recovery", figure, f"{after_s:.1f} s", after_s <= FINAL_WITHIN_S)]


def _balance(balance: Balance) -> Row:
    kept = balance.spent == balance.lines and not balance.held and balance.spent <= balance.cap
    measured = (
        f"spent {balance.spent.normalize():f}, lines {balance.lines.normalize():f}, held {balance.held.normalize():f}"
    )
    return Row(f"budget '{balance.name}'", "spent = lines, held 0", measured, kept)
