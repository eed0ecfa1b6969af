"""Structured output: JSON schemas in the form that constrained decoding takes."""

from typing import Any

import msgspec

from gateway.wire.translation import Block
from gateway.wire.types import ResponseFormat

_BARE_JSON = "Answer with a single JSON object and nothing else: no code fence, no text before or after it."
_UNENFORCED = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"}
    | {"maxItems", "uniqueItems", "minProperties", "maxProperties", "default", "examples"}
)


def output_format(wanted: ResponseFormat | None, constrains: bool, dropped: list[str]) -> tuple[Block | None, str]:
    """The constraint on decoding, or the instruction that stands in for it where none is possible.

    Args:
        constrains: whether the model is capable of constrained decoding.
        dropped: is told when strictness was asked for and cannot be given.
    """
    if wanted is None or wanted.kind == "text":
        return None, ""
    if wanted.kind == "json" or wanted.schema is None:
        return None, _BARE_JSON
    closed = closed_schema(wanted.schema) if constrains else None
    if closed is not None:
        return {"type": "json_schema", "schema": closed}, ""
    if wanted.strict:
        dropped.append("response_format.strict")
    return None, f"{_BARE_JSON} It must fit this JSON Schema:\n{msgspec.json.encode(wanted.schema).decode()}"


def closed_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """``schema`` as constrained decoding takes it: no object has properties beyond the named ones, and limits
    that cannot be enforced stand in the description, where the model still reads them.

    None for a schema that needs open objects (maps), which would change their meaning by being closed.
    """
    try:
        closed: dict[str, Any] = _closed(schema)
        return closed
    except _OpenObject:
        return None


class _OpenObject(Exception):
    pass


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    limits = {}
    for key, value in schema.items():
        if key in _UNENFORCED or (key == "minItems" and value not in (0, 1)):
            limits[key] = value
        elif key in {"properties", "$defs", "definitions"} and isinstance(value, dict):
            closed[key] = {name: _closed(inner) for name, inner in value.items()}
        elif key in {"anyOf", "oneOf", "allOf"} and isinstance(value, list):
            closed["allOf" if key == "allOf" else "anyOf"] = [_closed(inner) for inner in value]
        elif key == "items":
            closed[key] = _closed(value)
        elif key not in {"additionalProperties", "$schema"}:
            closed[key] = value
    kinds = schema.get("type")
    if kinds == "object" or "properties" in schema or (isinstance(kinds, list) and "object" in kinds):
        if "properties" not in schema or schema.get("additionalProperties"):
            raise _OpenObject
        closed["additionalProperties"] = False
    if limits:
        note = ", ".join(f"{key}: {msgspec.json.encode(value).decode()}" for key, value in limits.items())
        closed["description"] = f"{closed['description']} ({note})" if closed.get("description") else f"({note})"
    return closed
