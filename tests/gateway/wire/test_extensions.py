import json
from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest
from gateway.wire.extensions import take_extensions
from gateway.wire.types import Extensions, decode_fields


def take(body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[Extensions, list[str]]:
    fields = decode_fields(json.dumps(body).encode())
    return take_extensions(fields, headers or {}), list(fields)


def test_every_option_comes_in_the_body_and_is_taken_out_of_it() -> None:
    extensions, left = take(
        {
            "model": "m",
            "x-routing-strategy": "cost",
            "x-prefer-provider": "openai",
            "x-cache": False,
            "x-budget-key": "team-a",
            "x-task-type": "coding",
            "x-complexity": "high",
            "x-tags": ["a", "b", "a"],
            "x-timeout": 2.5,
            "x-fallback": True,
            "x-session-id": "s1",
            "x-other": 1,
        }
    )

    assert extensions == Extensions("cost", "openai", False, "team-a", "coding", "high", ("a", "b"), 2.5, True, "s1")
    assert left == ["model", "x-other"]


def test_every_option_comes_as_a_header() -> None:
    extensions, _ = take(
        {},
        {
            "x-gateway-routing-strategy": "quality",
            "x-gateway-cache": "TRUE",
            "x-gateway-tags": "a, b,,",
            "x-gateway-timeout": "30",
            "x-gateway-fallback": "0",
            "x-gateway-unknown": "ignored",
            "x-timeout": "not ours",
        },
    )

    assert extensions == Extensions(
        routing_strategy="quality", cache=True, tags=("a", "b"), timeout_s=30.0, fallback=False
    )


@pytest.mark.parametrize("name", ["x-budget-key", "x-gateway-budget-key", "x-gateway-x-budget-key"])
def test_the_budget_key_also_comes_under_its_bare_name(name: str) -> None:
    assert take({}, {name: " nightly "})[0] == Extensions(budget_key="nightly")


def test_the_bare_name_is_the_last_to_count() -> None:
    for headers in (
        {"x-budget-key": "a", "x-gateway-budget-key": "b"},
        {"x-gateway-budget-key": "b", "x-budget-key": ""},
    ):
        assert take({}, headers)[0].budget_key == "b"
    assert take({"x-budget-key": "c"}, {"x-budget-key": "a"}) == (Extensions(budget_key="c"), [])
    assert take({}, {"x-budget-key": " "})[0] == Extensions()
    with pytest.raises(InvalidRequest) as caught:
        take({}, {"x-budget-key": "x" * 257})
    assert caught.value.param == "x-budget-key"


def test_the_body_wins_over_the_header_and_null_over_nothing() -> None:
    extensions, left = take(
        {"x-timeout": 5, "x-cache": None, "x-session-id": None},
        {"x-gateway-timeout": "9", "x-gateway-cache": "false", "x-gateway-task-type": " "},
    )

    assert extensions == Extensions(timeout_s=5.0, cache=False)
    assert left == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("routing-strategy", "cheapest"),
        ("routing-strategy", ["cost"]),
        ("prefer-provider", ""),
        ("prefer-provider", 7),
        ("cache", "maybe"),
        ("cache", 2),
        ("budget-key", "x" * 257),
        ("session-id", "a\nb"),
        ("tags", {"a": 1}),
        ("tags", [1]),
        ("tags", ["t"] * 33),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "soon"),
        ("timeout", "nan"),
        ("timeout", "inf"),
        ("timeout", True),
        ("timeout", [1]),
        ("timeout", 10**400),
        ("fallback", "yes please"),
    ],
)
def test_a_wrong_value_is_a_400_that_names_the_field(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        take_extensions({f"x-{name}": msgspec.Raw(json.dumps(value).encode())}, {})

    assert caught.value.param == f"x-{name}"


def test_a_wrong_header_is_named_as_a_header() -> None:
    with pytest.raises(InvalidRequest) as caught:
        take({}, {"x-gateway-timeout": "never"})

    assert caught.value.param == "x-gateway-timeout"
