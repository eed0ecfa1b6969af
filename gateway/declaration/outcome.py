"""What applying a declaration did, or would do."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, Literal

from gateway.declaration.document import Problem

Action = Literal["create", "change"]
_SIGNS: dict[Action, str] = {"create": "+", "change": "~"}


class DeclarationRefused(Exception):
    """The file cannot be applied, and nothing of it was; ``problems`` are all that were found, by line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}")
        self.problems = sorted(set(problems))


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that changed, as it may be shown: secrets are never in here."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}" if self.before else f"{self.key}: {self.after}"


@dataclass(slots=True)
class Change:
    """What happens to one row."""

    action: Action
    noun: str
    label: str
    differences: list[Difference] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"{_SIGNS[self.action]} {self.noun} {self.label}"
        for difference in self.differences:
            yield f"    {difference}"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was minted; its text is known only now."""

    tenant: str
    project: str
    name: str
    token: str = field(repr=False)


@dataclass(slots=True)
class Outcome:
    """``changes`` in the order they were made, none when everything was as declared."""

    planned: bool
    changes: list[Change] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    new_tokens: list[NewToken] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        for change in self.changes:
            yield from change.lines()
        created = sum(change.action == "create" for change in self.changes)
        changed = len(self.changes) - created
        if not self.changes:
            yield "Nothing to change: everything is as declared."
        elif self.planned:
            yield f"Plan: {created} to create, {changed} to change. Nothing was applied."
        else:
            yield f"Applied: {created} created, {changed} changed."
        for new in self.new_tokens:
            yield f"Token {new.tenant}/{new.project}/{new.name} (shown only now): {new.token}"

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def shown_span(seconds: int) -> str:
    """A length of time as a file has it: ``24h``."""
    for unit, length, least in (("d", 86_400, 2), ("h", 3600, 1), ("m", 60, 1)):
        if seconds % length == 0 and seconds >= least * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def shown(value: object) -> str:
    """A value as a diff shows it."""
    if value is None or value == "":
        return "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | memoryview):
        return "(set)" if value else shown(None)
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(part)}' for key, part in value.items())}}}"
    return str(value)
