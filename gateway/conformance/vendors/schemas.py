"""Answers that fit a JSON schema."""

from typing import Any


def instance_of(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """The smallest value that fits ``schema``; ``$ref`` is looked up in ``root``."""
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return instance_of(target, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return instance_of(schema[union][0], root)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    return _instance_of_type(kind.lower(), schema, root)


def _instance_of_type(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: instance_of(properties.get(name, {}), root) for name in schema.get("required", [])}
        case "array":
            return [instance_of(schema.get("items", {}), root)] * max(1, schema.get("minItems", 1))
        case "string":
            return "tok1".ljust(schema.get("minLength", 0), "x")
        case "integer":
            return int(schema.get("minimum", 1))
        case "number":
            return float(schema.get("minimum", 1.5))
        case "boolean":
            return True
    return None
