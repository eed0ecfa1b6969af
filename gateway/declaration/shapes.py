"""Which keys a declaration may have, and the reading of a whole file against them.

A shape is data: a later part of the system adds a row here and a step in :mod:`gateway.declaration.applying`.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from yaml.nodes import Node

from gateway.declaration import document
from gateway.declaration.document import Fault, Problem, Reader, line_of
from gateway.models import CAPABILITIES, MODALITIES, Model, Provider
from gateway.providers import catalog
from gateway.providers.outbound import Deadlines
from tenants.roles import Role, Scope


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
                problems.append(Problem(entry.line, f"a {shape.noun} needs '{key}'."))
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


# ------------------------------------------------------------------------------ the keys themselves

_NAME: Final = Field(document.name, required=True)
_TEXT: Final = Field(document.text)
_ON: Final = Field(document.boolean)
_SIZE: Final = Field(document.integer, nullable=True)
_DEADLINES: Final = Field(
    mapping_of("deadline", {stage: Field(document.seconds) for stage in Deadlines.__struct_fields__})
)

PRICE_CLASSES: Final = (
    "input", "output", "cached_input", "cache_write_5m", "cache_write_1h", "reasoning", "audio_input", "audio_output",
)  # fmt: skip
_TIER: Final = {
    "above_input_tokens": Field(document.integer, required=True),
    **{name: Field(document.money) for name in PRICE_CLASSES},
}
PRICE_FIELDS: Final = {
    **{name: Field(document.money, required=name in ("input", "output")) for name in PRICE_CLASSES},
    "per_request": Field(document.money),
    "tiers": Field(document.list_of(mapping_of("price tier", _TIER))),
}

PROVIDER: Final = Shape(
    "provider",
    {
        "name": _NAME,
        "kind": Field(document.one_of(catalog.KINDS), required=True),
        "base_url": _TEXT,
        "api_key": Field(document.secret),
        "on_disconnect": Field(document.one_of(Provider.OnDisconnect.values)),
        "deadlines": _DEADLINES,
        "region": _TEXT,
        "weight": Field(document.integer),
        "enabled": _ON,
    },
)
DEPLOYMENT: Final = Shape(
    "deployment",
    {"provider": _NAME, "vendor_model": Field(document.name), "weight": Field(document.integer, nullable=True)},
    identity=("provider", "vendor_model"),
)
MODEL: Final = Shape(
    "model",
    {
        "name": _NAME,
        "provider": _NAME,
        "vendor_model": Field(document.name),
        "price": Field(mapping_of("price", PRICE_FIELDS)),
        "fallbacks": Field(document.list_of(document.name)),
        "balancing": Field(document.one_of(Model.Balancing.values)),
        "hedging": _ON,
        "capabilities": Field(document.list_of(document.one_of(CAPABILITIES))),
        "modality": Field(document.one_of(MODALITIES)),
        "context_window": _SIZE,
        "max_output_tokens": _SIZE,
        "deadlines": _DEADLINES,
        "enabled": _ON,
    },
    sections={"deployments": DEPLOYMENT},
)
PRICE: Final = Shape(
    "price",
    {
        "kind": Field(document.one_of(catalog.KINDS), required=True),
        "vendor_model": _NAME,
        "effective_from": Field(document.moment),
        **PRICE_FIELDS,
    },
    identity=("kind", "vendor_model", "effective_from"),
)
PROJECT: Final = Shape("project", {"slug": _NAME, "name": _TEXT}, identity=("slug",))
ALIAS: Final = Shape("alias", {"name": _NAME, "model": _NAME})
TOKEN: Final = Shape(
    "token",
    {
        "name": _NAME,
        "project": _NAME,
        "value": Field(document.secret),
        "models": Field(document.list_of(document.name)),
        "cidrs": Field(document.list_of(document.network)),
        "scopes": Field(document.list_of(document.one_of(Scope))),
        "requests_per_minute": Field(document.integer),
        "expires_at": Field(document.moment, nullable=True),
    },
    identity=("project", "name"),
)
MEMBER: Final = Shape(
    "member",
    {
        "email": _NAME,
        "role": Field(document.one_of(Role), required=True),
        "project": Field(document.name, nullable=True),
    },
    identity=("email", "project"),
)
TENANT: Final = Shape(
    "tenant",
    {"slug": _NAME, "name": _TEXT, "enabled": _ON, "time_zone": Field(document.name), "log_content": _ON},
    sections={
        "projects": PROJECT,
        "providers": PROVIDER,
        "models": MODEL,
        "aliases": ALIAS,
        "tokens": TOKEN,
        "members": MEMBER,
    },
    identity=("slug",),
)
FILE: Final = Shape(
    "declaration",
    {},
    sections={"providers": PROVIDER, "models": MODEL, "prices": PRICE, "tenants": TENANT},
    identity=(),
)


def read(text: str) -> tuple[Entry | None, list[Problem]]:
    """A file's content, read as far as it can be, and what is wrong with it.

    None stands for a file that is not YAML, or holds nothing.
    """
    problems: list[Problem] = []
    try:
        root = document.compose(text)
    except Fault as found:
        return None, list(found.problems)
    if root is None:
        return None, [Problem(1, "the file declares nothing.")]
    return read_entry(root, FILE, problems), problems
