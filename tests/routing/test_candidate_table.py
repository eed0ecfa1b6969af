"""What was weighed of a decision's candidates, written small and read in the order of trial."""

import json
from collections.abc import Mapping
from importlib import import_module
from math import nan
from typing import Any

import pytest
from django.db import connection

from routing.candidate_table import ALWAYS, CandidateTable, packed

MODELS = ("small", "middle", "large")
COLUMNS = ([0.5, 0.7, 0.8], [0.1, 0.2, 0.3], [1.0, 3.0, 30.0], [0.5, 0.75, 2.0], [0.01, 0.03, 0.3], [0.0, 0.02, 0.04])
WEIGHED = [packed(column) for column in COLUMNS]


def test_the_chosen_one_comes_first_and_the_others_by_score() -> None:
    columns = CandidateTable.of(MODELS, *WEIGHED, odds=[0.2, 0.7, 0.1]).columns("large")
    assert columns == {
        "model": ["large", "middle", "small"],
        "mean": [0.8, 0.7, 0.5],
        "sd": [0.3, 0.2, 0.1],
        "cost": [30.0, 3.0, 1.0],
        "latency": [2.0, 0.75, 0.5],
        "penalty": [0.3, 0.03, 0.01],
        "caution": [0.04, 0.02, 0.0],
        "propensity": [0.1, 0.7, 0.2],
        "points": [0.0, 0.0, 0.0],
    }


def test_without_chance_the_best_was_certain_whoever_had_the_last_word() -> None:
    assert CandidateTable.of(MODELS, *WEIGHED).columns("small")["propensity"] == [0.0, 1.0, 0.0]


def test_points_are_kept_with_the_odds_only() -> None:
    columns = CandidateTable.of(MODELS, *WEIGHED, odds=[0.0, 0.0, 1.0], points=[0.0, 0.0, 0.5]).columns("large")
    assert (columns["points"], columns["propensity"]) == ([0.5, 0.0, 0.0], [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="behind the odds"):
        CandidateTable.of(MODELS, *WEIGHED, points=[0.0, 0.0, 0.5])


def test_columns_may_be_packed_together() -> None:
    together = WEIGHED[0] + WEIGHED[1]
    assert CandidateTable.of(MODELS, together, *WEIGHED[2:]) == CandidateTable.of(MODELS, *WEIGHED)


def test_where_nobody_qualified_there_is_nothing_to_tell() -> None:
    assert CandidateTable((), b"").columns("small") == {}


def test_four_bytes_are_kept_of_each_number() -> None:
    assert len(CandidateTable.of(MODELS, *WEIGHED).numbers) == 4 * 6 * 3
    assert len(CandidateTable.of(MODELS, *WEIGHED, odds=[0.2, 0.7, 0.1], points=[0.0] * 3).numbers) == 4 * 8 * 3


# ------------------------------------------------------------------ tables that were kept as JSON


def moved(candidates: Mapping[str, Any]) -> CandidateTable:
    """What the migration makes of a row's JSON."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE routing_decision (candidates jsonb, qualified text[], weighed bytea)")
        try:
            cursor.execute("INSERT INTO routing_decision VALUES (%s, '{}', '')", [json.dumps(candidates)])
            cursor.execute(import_module("routing.migrations.0003_compact_decisions").FROM_JSON)
            cursor.execute("SELECT qualified, weighed FROM routing_decision")
            (row,) = cursor.fetchall()
        finally:
            cursor.execute("DROP TABLE routing_decision")
    return CandidateTable(tuple(row[0]), bytes(row[1]))


@pytest.mark.django_db
@pytest.mark.parametrize("further", [(), ("propensity",), ("points",), ("propensity", "points")])
def test_rows_of_former_versions_are_carried_over(further: tuple[str, ...]) -> None:
    in_order = ("large", "middle", "small")
    former: dict[str, Any] = {
        name: [*reversed(column)]
        for name, column in zip(ALWAYS, COLUMNS, strict=True)
        if name not in {"latency", "caution"}
    } | {"model": in_order}
    given = {"propensity": [0.5, 0.3, 0.2], "points": [0.6, 0.0, 0.0]}
    chosen = {name: given[name] for name in further}
    expected = CandidateTable.of(
        in_order,
        *(packed(former.get(name, [0.0 if name == "caution" else nan] * 3)) for name in ALWAYS),
        odds=chosen.get("propensity", [1.0, 0.0, 0.0] if further else None),
        points=chosen.get("points"),
    )
    assert moved(former | chosen) == expected


@pytest.mark.django_db
def test_rows_without_candidates_stay_empty() -> None:
    assert moved({}) == CandidateTable((), b"")
