"""Who can do what the request needs (always), and what the tenant requires."""

from collections.abc import Sequence

from gateway.wire.types import Needs
from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "capability"

WORDS = {
    "vision": "images",
    "audio": "audio",
    "files": "files",
    "tools": "tools",
    "json_schema": "structured output by a JSON schema",
}
REQUIRABLE = (*WORDS, "reasoning", "streaming", "prefill")

_NO_NEEDS = Needs()


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    wanted = dict.fromkeys(options.get("require", ()))
    if asked.needs != _NO_NEEDS:
        wanted |= dict.fromkeys(need for need in WORDS if getattr(asked.needs, need))
    if not wanted:
        return NOTHING
    removed = {}
    for one in field:
        if one.capabilities and (missing := [need for need in wanted if need not in one.capabilities]):
            removed[one.name] = ", ".join(WORDS.get(need, need) for need in missing)
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "require")
    check_that.one_of(options, "require")
    check_that.words_of(options, "require", REQUIRABLE)
    check_that.texts(options, "require")
