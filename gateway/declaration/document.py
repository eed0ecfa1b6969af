"""YAML whose every value knows its line.

Only plain data is read: no tags beyond YAML's own scalars, no anchors (an alias can stand for any amount of
data), no key twice. What is wrong is raised as a :class:`Fault`, which can carry many problems at once.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from ipaddress import ip_network
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.moments import parse_moment

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 32

_TAG: Final = "tag:yaml.org,2002:"
_STR, _INT, _FLOAT, _BOOL, _NULL, _TIME, _MAP, _SEQ = (
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")
)
_NOUNS: Final = {
    _STR: "text",
    _INT: "a number",
    _FLOAT: "a number",
    _BOOL: "true or false",
    _NULL: "nothing",
    _TIME: "a date",
    _MAP: "a mapping",
    _SEQ: "a list",
}
_TRUE: Final = frozenset({"true", "yes", "on"})
_INTEGER: Final = re.compile(r"[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_AMOUNT: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_PER_CENT: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,2})?")
_SPAN: Final = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something the file gets wrong; ``line`` counts from 1."""

    line: int
    message: str


class Fault(Exception):
    """A value that cannot be read, with every reason found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__()
        self.problems = tuple(problems)

    def prefixed(self, key: str) -> list[Problem]:
        """The problems, said of the value of ``key``."""
        return [Problem(problem.line, f"{key}: {problem.message}") for problem in self.problems]


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as the file gives it: itself, or the name of the environment variable that holds it.

    ``value`` is None where that variable is unset or empty.
    """

    value: str | None = field(repr=False)
    variable: str = ""


Reader = Callable[[Node], Any]
"""Turns a node into a value; raises Fault."""


def line_of(node: Node) -> int:
    return _line(node.start_mark)


def _line(mark: Any) -> int:
    """Of a mark of PyYAML's, in Python or in C; None is the file's beginning."""
    return int(mark.line) + 1 if mark else 1


def fault(node: Node, message: str) -> Fault:
    return Fault([Problem(line_of(node), message)])


def compose(text: str) -> Node | None:
    """The document's root, None when it is empty. Raises Fault for what is not plain YAML."""
    try:
        loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
        _refuse_anchors_and_depth(text, loader)
        return yaml.compose(text, loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        reason = " ".join(filter(None, (exc.context, exc.problem)))
        raise Fault([Problem(_line(mark), f"this is not YAML: {reason}.")]) from None
    except yaml.YAMLError as exc:
        raise Fault([Problem(1, f"this is not YAML: {str(exc).splitlines()[0]}.")]) from None


def _refuse_anchors_and_depth(text: str, loader: Any) -> None:
    """Looks at the events only, which cost memory for none of what is refused here."""
    depth = 0
    for event in yaml.parse(text, loader):
        if getattr(event, "anchor", None) is not None:
            raise Fault([Problem(_line(event.start_mark), "anchors and aliases (&, *) are not supported.")])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise Fault([Problem(_line(event.start_mark), "this is nested too deeply.")])


def pairs(node: Node) -> list[tuple[str, Node, Node]]:
    """(key, key's node, value's node) of a mapping. Raises Fault, also for a key that stands there twice."""
    if not isinstance(node, MappingNode) or node.tag != _MAP:
        raise _unexpected(node, "a mapping")
    found: dict[str, tuple[str, Node, Node]] = {}
    problems: list[Problem] = []
    for key, value in node.value:
        if not isinstance(key, ScalarNode) or key.tag not in (_STR, _BOOL):
            problems.append(Problem(line_of(key), "a key must be a plain word."))
        elif key.value in found:
            first = line_of(found[key.value][1])
            problems.append(Problem(line_of(key), f"the key '{key.value}' stands here twice (first on line {first})."))
        else:
            found[key.value] = (key.value, key, value)
    if problems:
        raise Fault(problems)
    return list(found.values())


def items(node: Node) -> list[Node]:
    if not isinstance(node, SequenceNode) or node.tag != _SEQ:
        raise _unexpected(node, "a list")
    return list(node.value)


def is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == _NULL


# ------------------------------------------------------------------------------ readers of one value


def text(node: Node) -> str:
    return _scalar(node, "text", _STR).strip()


def name(node: Node) -> str:
    """Text that is not empty."""
    value = text(node)
    if not value:
        raise fault(node, "must not be empty.")
    return value


def boolean(node: Node) -> bool:
    return _scalar(node, "true or false", _BOOL).lower() in _TRUE


def integer(node: Node) -> int:
    value = _scalar(node, "a whole number", _INT)
    if not _INTEGER.fullmatch(value):
        raise fault(node, f"must be a whole number of at least 0, not {value}.")
    return int(value)


def money(node: Node) -> Decimal:
    """An amount of USD, exact as written; quoted or not."""
    value = _scalar(node, "an amount", _INT, _FLOAT, _STR)
    if not _DECIMAL.fullmatch(value):
        raise fault(node, f"must be an amount in USD of at least 0 with at most 6 decimals, not '{value}'.")
    return Decimal(value)


def amount(node: Node) -> Decimal:
    """A sum or figure, exact as written; quoted or not."""
    value = _scalar(node, "a number", _INT, _FLOAT, _STR)
    if not _AMOUNT.fullmatch(value):
        raise fault(node, f"must be a number of at least 0 with at most 12 decimals, not '{value}'.")
    return Decimal(value)


def per_cent(node: Node) -> Decimal:
    value = _scalar(node, "a number", _INT, _FLOAT, _STR)
    if not _PER_CENT.fullmatch(value):
        raise fault(node, f"must be per cent of at least 0 with at most 2 decimals, not '{value}'.")
    return Decimal(value)


def span(node: Node) -> int:
    """A length of time like ``24h``, in seconds."""
    value = _scalar(node, "a length of time like 24h", _STR)
    match = _SPAN.fullmatch(value)
    if match is None:
        raise fault(node, f"must be a length of time like 90s, 15m, 24h or 7d, not '{value}'.")
    return int(match[1]) * _UNIT_S[match[2]]


def minutes(node: Node) -> int:
    """A length of time like ``1h``, in whole minutes."""
    length = span(node)
    if length % _UNIT_S["m"]:
        raise fault(node, "must be whole minutes.")
    return length // _UNIT_S["m"]


def seconds(node: Node) -> float:
    value = _scalar(node, "a number of seconds", _INT, _FLOAT)
    if not _NUMBER.fullmatch(value) or float(value) <= 0:
        raise fault(node, f"must be a number of seconds above 0, not {value}.")
    return float(value)


def moment(node: Node) -> datetime:
    """A date or time in ISO 8601; without a zone it is UTC."""
    value = _scalar(node, "a date or time", _TIME, _STR)
    try:
        return parse_moment(value)
    except ValueError as exc:
        raise fault(node, str(exc)) from None


def network(node: Node) -> str:
    """In its usual form: host bits are cut off."""
    value = name(node)
    try:
        return str(ip_network(value, strict=False))
    except ValueError:
        raise fault(node, f"must be a network like 10.0.0.0/8, not '{value}'.") from None


def secret(node: Node) -> Secret:
    """Text, or ``{env: NAME}``."""
    if not isinstance(node, MappingNode):
        return Secret(name(node))
    given = {key: value for key, _, value in pairs(node)}
    if set(given) != {"env"}:
        raise fault(node, "a secret is text or {env: NAME}.")
    variable = name(given["env"])
    return Secret(os.environ.get(variable) or None, variable)


def one_of(choices: Iterable[str]) -> Reader:
    known = tuple(choices)

    def read(node: Node) -> str:
        value = name(node)
        if value not in known:
            raise fault(node, f"'{value}' is not one of {', '.join(known)}.")
        return value

    return read


def list_of(read_item: Reader) -> Reader:
    def read(node: Node) -> list[Any]:
        values: list[Any] = []
        problems: list[Problem] = []
        for item in items(node):
            try:
                values.append(read_item(item))
            except Fault as found:
                problems += found.problems
        if problems:
            raise Fault(problems)
        return values

    return read


def _scalar(node: Node, wanted: str, *tags: str) -> str:
    if not isinstance(node, ScalarNode) or node.tag not in tags:
        raise _unexpected(node, wanted)
    return str(node.value)


def _unexpected(node: Node, wanted: str) -> Fault:
    if node.tag not in _NOUNS:
        return fault(node, f"the tag {node.tag} is not supported.")
    return fault(node, f"must be {wanted}, not {_NOUNS[node.tag]}.")
