"""Which models may answer which tasks and complexities, by name."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.features import COMPLEXITIES, TASKS
from routing.rules import options as check_that
from routing.rules.patterns import those_of

NAME = "models"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    if not _concerns(asked, options):
        return NOTHING
    allowed = those_of(field, options.get("allow", ("*",)))
    denied = those_of(field, options.get("deny", ()))
    removed = {
        one.name: f"{'denied' if one.name in allowed else 'not allowed'} for {_whom(asked, options)}"
        for one in field
        if one.name not in allowed or one.name in denied
    }
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "allow", "deny", "task", "complexity", "least_confidence")
    check_that.one_of(options, "allow", "deny")
    check_that.texts(options, "allow")
    check_that.texts(options, "deny")
    check_that.words_of(options, "task", TASKS)
    check_that.words_of(options, "complexity", COMPLEXITIES)
    check_that.number(options, "least_confidence", 0, 1)


def _concerns(asked: Asked, options: Options) -> bool:
    return (
        asked.confidence >= options.get("least_confidence", 0.0)
        and _is(asked.task, options.get("task"))
        and _is(asked.complexity, options.get("complexity"))
    )


def _is(word: str, wanted: str | Sequence[str] | None) -> bool:
    return wanted is None or word == wanted or (not isinstance(wanted, str) and word in wanted)


def _whom(asked: Asked, options: Options) -> str:
    words = [getattr(asked, key) for key in ("complexity", "task") if key in options]
    return f"{' '.join(words)} requests" if words else "any request"
