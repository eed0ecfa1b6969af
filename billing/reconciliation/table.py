"""A reconciliation as people read it, and as programs do."""

from typing import Any

from billing.reconciliation.comparison import Difference, Reconciliation

_EVERY = "all"


def as_table(result: Reconciliation) -> str:
    lines = [f"{result.format}, {result.first} to {result.last} (UTC)"]
    if result.differences:
        lines += ["", _row("day", "model", "class", "of", "ours", "vendor's", "difference", "likely cause")]
        lines += [_difference(difference) for difference in result.differences]
    lines.append("")
    for owner, amounts in result.not_ours.items():
        told = ", ".join(f"{_plain(measure, amount)} {measure}" for measure, amount in amounts.items())
        lines.append(f"{'presumably ' if result.guessed else ''}not ours: {owner}, {told}")
    for measure, total in result.totals.items():
        lines.append(
            f"{measure}: ours {_plain(measure, total.ours)}, the vendor's {_plain(measure, total.theirs)}, "
            f"in question {_plain(measure, total.unexplained)} ({total.unexplained_percent:.2f} %)"
        )
    lines.append(verdict(result))
    return "\n".join(lines)


def verdict(result: Reconciliation) -> str:
    if not result.differences:
        return "Both agree."
    if result.agrees:
        return f"Both agree but for what is explained or within {result.tolerance_percent} %."
    causes = sorted({each.cause.value for each in result.differences if not each.cause.is_harmless})
    return f"They differ by more than {result.tolerance_percent} %: {', '.join(causes)}."


def as_json(result: Reconciliation) -> dict[str, Any]:
    """Amounts are decimal strings, so that none is rounded."""
    return {
        "format": result.format,
        "from": str(result.first),
        "to": str(result.last),
        "agrees": result.agrees,
        "verdict": verdict(result),
        "not_ours": {
            owner: {measure: _plain(measure, amount) for measure, amount in amounts.items()}
            for owner, amounts in result.not_ours.items()
        },
        "guessed": result.guessed,
        "totals": {
            measure: {
                "ours": _plain(measure, total.ours),
                "theirs": _plain(measure, total.theirs),
                "in_question": _plain(measure, total.unexplained),
                "in_question_percent": f"{total.unexplained_percent:.4f}",
            }
            for measure, total in result.totals.items()
        },
        "differences": [
            {
                "day": str(each.day),
                "model": each.model or None,
                "class": each.token_class or None,
                "measure": each.measure,
                "ours": _plain(each.measure, each.ours),
                "theirs": _plain(each.measure, each.theirs),
                "difference": _plain(each.measure, each.amount),
                "cause": each.cause.value,
                "detail": each.detail,
            }
            for each in result.differences
        ],
    }


def _difference(difference: Difference) -> str:
    amounts = (difference.ours, difference.theirs, difference.amount)
    why = f"{difference.cause.value}: {difference.detail}" if difference.detail else difference.cause.value
    return _row(
        str(difference.day), difference.model or _EVERY, difference.token_class or _EVERY, difference.measure,
        *(_plain(difference.measure, amount) for amount in amounts), why,
    )  # fmt: skip


def _plain(measure: str, amount: Any) -> str:
    if measure == "tokens":
        return f"{amount:.0f}"
    text = f"{amount:.12f}"
    return text.rstrip("0").rstrip(".")


def _row(*cells: str) -> str:
    day, model, token_class, measure, ours, theirs, difference, why = cells
    return f"{day:<11}{model:<30}{token_class:<15}{measure:<7}{ours:>18}{theirs:>18}{difference:>18}  {why}"
