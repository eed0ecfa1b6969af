"""Reads a document against shapes: which keys an entry may have, of which kind, and what is wrong with it."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from yaml.nodes import Node

from gateway.declaration import document
from gateway.declaration.document import Fault, Problem, Reader, line_of


@dataclass(frozen=True, slots=True)
class Field:
    """One key. ``nullable``: an empty value is read as None, which clears what was set before."""

    read: Reader
    required: bool = False
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What one kind of entry may say: ``fields`` hold values, ``sections`` lists of further entries.

    No two entries of a list may agree in all fields of ``identity``.
    """

    noun: str
    fields: Mapping[str, Field]
    sections: Mapping[str, "Shape"] = field(default_factory=dict)
    identity: tuple[str, ...] = ("name",)


@dataclass(slots=True)
class Entry:
    """An entry as read: ``values`` holds what the file gives and nothing else, ``lines`` where it stands.

    ``usable`` is False when what it needs is missing. Either way the problem is on the list; an entry with
    problems that is still usable is worked on further, to find the others too.
    """

    shape: Shape = field(repr=False)
    line: int
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    sections: dict[str, list["Entry"]] = field(default_factory=dict)
    usable: bool = True

    def line_of(self, key: str) -> int:
        return self.lines.get(key, self.line)

    def only(self, keys: Iterable[str]) -> dict[str, Any]:
        """The given values of these keys."""
        return {key: self.values[key] for key in keys if key in self.values}

    @property
    def identity(self) -> tuple[Any, ...]:
        return tuple(self.values.get(key) for key in self.shape.identity)

    @property
    def label(self) -> str:
        return "/".join(str(part) for part in self.identity if part is not None)


def mapping_of(noun: str, fields: Mapping[str, Field]) -> Reader:
    """A mapping that is one value, like a price."""
    shape = Shape(noun, fields)

    def read(node: Node) -> dict[str, Any]:
        problems: list[Problem] = []
        entry = read_entry(node, shape, problems)
        if problems:
            raise Fault(problems)
        return entry.values

    return read


def one_key_of(noun: str, fields: Mapping[str, Field]) -> Reader:
    """A mapping with exactly one of these keys."""
    read_mapping = mapping_of(noun, fields)

    def read(node: Node) -> dict[str, Any]:
        values: dict[str, Any] = read_mapping(node)
        if len(values) != 1:
            raise document.fault(node, f"give exactly one of {', '.join(fields)}.")
        return values

    return read


def part_of(shape: Shape) -> Reader:
    """One entry as the value of a key, read as an :class:`Entry`: what it refers to is refused at its own lines."""

    def read(node: Node) -> Entry:
        problems: list[Problem] = []
        entry = read_entry(node, shape, problems)
        if problems:
            raise Fault(problems)
        return entry

    return read


def read_entry(node: Node, shape: Shape, problems: list[Problem]) -> Entry:
    """Everything of ``node`` that can be read; ``problems`` takes the rest."""
    entry = Entry(shape, line_of(node))
    try:
        given = document.pairs(node)
    except Fault as found:
        problems += found.problems
        entry.usable = False
        return entry
    for key, key_node, value in given:
        entry.lines[key] = line_of(value)
        if key in shape.sections:
            entry.sections[key] = read_entries(key, value, shape.sections[key], problems)
        elif key in shape.fields:
            _read_field(key, value, shape.fields[key], entry, problems)
        else:
            problems.append(Problem(line_of(key_node), _unknown_key(key, shape)))
    for key, wanted in shape.fields.items():
        if wanted.required and key not in entry.values:
            entry.usable = False
            if key not in entry.lines:
                problems.append(
                    Problem(entry.line, f"{'an' if shape.noun[0] in 'aeiou' else 'a'} {shape.noun} needs '{key}'.")
                )
    return entry


def read_entries(key: str, node: Node, shape: Shape, problems: list[Problem]) -> list[Entry]:
    try:
        nodes = document.items(node)
    except Fault as found:
        problems += found.prefixed(key)
        return []
    entries = [read_entry(item, shape, problems) for item in nodes]
    seen: dict[tuple[Any, ...], Entry] = {}
    for entry in entries:
        first = seen.setdefault(entry.identity, entry)
        if first is not entry and entry.usable:
            message = f"the {shape.noun} '{entry.label}' is declared twice (first on line {first.line})."
            problems.append(Problem(entry.line, message))
            entry.usable = False
    return entries


def _read_field(key: str, node: Node, wanted: Field, entry: Entry, problems: list[Problem]) -> None:
    if document.is_null(node) and wanted.nullable:
        entry.values[key] = None
        return
    try:
        entry.values[key] = wanted.read(node)
    except Fault as found:
        problems += found.prefixed(key)


def _unknown_key(key: str, shape: Shape) -> str:
    known = [*shape.fields, *shape.sections]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
    return f"unknown key '{key}' in a {shape.noun}; {hint}"
