"""Writes declared values to rows, and keeps account of what that changes and of what is refused."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

from audit.record import Actor, changes_between, record
from gateway.declaration.document import Problem
from gateway.declaration.entries import Entry
from gateway.declaration.outcome import Action, Change, Difference, NewToken, shown, shown_span
from gateway.rows import Row
from tenants.models import Tenant

# Attributes that are lengths of time, by the seconds of their unit.
_SPANS: Final = {"rolling_s": 1, "window_minutes": 60, "cooldown_minutes": 60}


class Writer:
    """One run over one file."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.problems: list[Problem] = []
        self.changes: dict[tuple[str, str], Change] = {}
        self.warnings: list[str] = []
        self.new_tokens: list[NewToken] = []

    def write(
        self,
        entry: Entry,
        row: Row,
        values: Mapping[str, Any],
        *,
        tenant: Tenant | None,
        key_of: Mapping[str, str] | None = None,
        within: str = "",
    ) -> bool:
        """Give ``row`` these values by attribute, and save it if that changes it.

        ``key_of`` translates an attribute's name to the file's key where they differ; ``within`` names the row this
        one is a part of. Returns False when the row is refused.
        """
        creating = row._state.adding
        keys = {attribute: (key_of or {}).get(attribute, attribute) for attribute in values}
        differences = {
            attribute: ("" if creating else getattr(row, attribute), value)
            for attribute, value in values.items()
            if creating or getattr(row, attribute) != value
        }
        if not creating and not differences:
            return True
        for attribute, (_, value) in differences.items():
            setattr(row, attribute, value)
        try:
            row.full_clean()
        except ValidationError as exc:
            self.refuse(entry, exc, keys)
            return False
        before = None if creating else type(row)._default_manager.get(pk=row.pk)
        row.save()
        action: Action = "create" if creating else "change"
        act = f"{entry.shape.noun.replace(' ', '_')}.{action}d"
        record(self.actor, act, row, tenant=tenant, changes=changes_between(before, row))
        change = self.change(action, entry.shape.noun, _label(entry, tenant, within))
        told = {name: values for name, values in differences.items() if keys[name] not in entry.shape.identity}
        change.differences += _differences(told, keys, creating)
        return True

    def change(self, action: Action, noun: str, label: str) -> Change:
        """The account of one row, opened by whatever changes it first."""
        return self.changes.setdefault((noun, label), Change(action, noun, label))

    def differ(
        self, entry: Entry, tenant: Tenant | None, key: str, before: str, after: str, *, creates: bool = False
    ) -> None:
        """Note a change that was made by another call than :meth:`write`; ``creates``: there was no such row before."""
        change = self.change("create" if creates else "change", entry.shape.noun, _label(entry, tenant))
        change.differences.append(Difference(key, "" if change.action == "create" else before, after))

    def refuse(self, entry: Entry, exc: ValidationError, key_of: Mapping[str, str] | None = None) -> None:
        """List why a row is refused, at the lines it is about; what could not even be read is listed already."""
        by_attribute = exc.message_dict if hasattr(exc, "error_dict") else {NON_FIELD_ERRORS: exc.messages}
        for attribute, messages in by_attribute.items():
            key = (key_of or {}).get(attribute, attribute)
            if key in entry.lines and key not in entry.values:
                continue
            prefix = "" if attribute == NON_FIELD_ERRORS else f"{key}: "
            self.problems += [Problem(entry.line_of(key), f"{prefix}{message}") for message in messages]

    def missing(self, entry: Entry, key: str, wanted: str, noun: str, known: Iterable[str]) -> None:
        """List a reference that leads nowhere."""
        near = difflib.get_close_matches(wanted, sorted(set(known)), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        self.problems.append(Problem(entry.line_of(key), f"{key}: there is no {noun} '{wanted}'{hint}"))


def _differences(changed: Mapping[str, tuple[Any, Any]], keys: Mapping[str, str], creating: bool) -> list[Difference]:
    """By key of the file; attributes that stand under one key are told together."""
    by_key: dict[str, list[tuple[Any, Any]]] = {}
    for name, old_and_new in changed.items():
        old, new = (_as_declared(name, value) for value in old_and_new)
        by_key.setdefault(keys[name], []).append((old, new))
    found = []
    for key, values in by_key.items():
        before, after = _together(old for old, _ in values), _together(new for _, new in values)
        if creating:
            if after == shown(None):
                continue
            before = ""
        elif before == after:  # a secret: it is said that it changed, and no more
            after = "(changed)"
        found.append(Difference(key, before, after))
    return found


def _as_declared(attribute: str, value: Any) -> Any:
    """Lengths of time as a file has them."""
    unit_s = _SPANS.get(attribute)
    return shown_span(value * unit_s) if unit_s and isinstance(value, int) else value


def _together(values: Iterable[Any]) -> str:
    texts = [shown(value) for value in values if value is not None and value != ""]
    return " ".join(texts) or shown(None)


def _label(entry: Entry, tenant: Tenant | None, within: str = "") -> str:
    owner = tenant.slug if tenant is not None and entry.shape.noun != "tenant" else ""
    return "/".join(filter(None, (owner, within, entry.label)))
