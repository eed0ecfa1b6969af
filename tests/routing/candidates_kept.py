"""A decision's candidates the way its row keeps them, out of columns by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from routing.candidate_table import ALWAYS, CandidateTable, packed


def kept(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The fields of a row; of the columns that every table has, those that are missing are 0."""
    models = [*columns["model"]]
    weighed = [packed(columns.get(name, [0.0] * len(models))) for name in ALWAYS]
    table = CandidateTable.of(models, *weighed, odds=columns.get("propensity"), points=columns.get("points"))
    return {"qualified": table.models, "weighed": table.numbers}
