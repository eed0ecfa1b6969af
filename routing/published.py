"""Published scores: what vendors say of their models' quality, for the time before anybody has rated an answer.

The shipped figures are results of one public examination (MMLU), each with its source: a start and nothing more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from django.db import transaction
from msgspec import Meta, Struct

from audit.actions import Action
from audit.record import Actor, record
from routing.models import PublishedScore

SHIPPED: Final = Path(__file__).parent / "artefacts" / "published_scores.json"

_Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\A[^\x00]+\Z")]
_Source = Annotated[str, Meta(min_length=1, max_length=300, pattern=r"\A[^\x00]+\Z")]
_Quality = Annotated[float, Meta(ge=0, le=1)]


class UnusableFigures(ValueError):
    """A file of figures that cannot be taken over. The message says why."""


class Figure(Struct, frozen=True, forbid_unknown_fields=True):
    """A quality (0-1) of the vendor models whose names match one of the patterns, and who says so."""

    quality: _Quality
    source: _Source
    vendor_models: tuple[_Name, ...]


@dataclass(frozen=True, slots=True)
class ImportResult:
    """How many patterns are new, and how many had a score already, which stays."""

    added: int
    kept: int


def read_figures(content: bytes) -> list[Figure]:
    """A JSON list of ``{"vendor_models": [...], "quality": 0-1, "source": "..."}``. Raises UnusableFigures."""
    try:
        figures = msgspec.json.decode(content, type=list[Figure])
    except msgspec.DecodeError as exc:
        raise UnusableFigures(str(exc)) from None
    seen: set[str] = set()
    for pattern in (pattern for figure in figures for pattern in figure.vendor_models):
        if pattern in seen:
            raise UnusableFigures(f"'{pattern}' has two figures")
        seen.add(pattern)
    return figures


@transaction.atomic
def import_scores(actor: Actor, content: bytes | None = None) -> ImportResult:
    """Add to the installation's scores those of ``content`` (None: the shipped ones) that it lacks. Needs no network.

    Idempotent: a pattern that has a score keeps it, whoever gave it. Raises UnusableFigures.
    """
    figures = read_figures(SHIPPED.read_bytes() if content is None else content)
    held = set(PublishedScore.objects.filter(tenant=None).values_list("vendor_model_pattern", flat=True))
    rows = list(_rows(figures))
    fresh = [row for row in rows if row.vendor_model_pattern not in held]
    PublishedScore.objects.bulk_create(fresh)
    if fresh:
        record(actor, Action.PUBLISHED_SCORES_IMPORTED, None, tenant=None, changes={"added": [None, len(fresh)]})
    return ImportResult(len(fresh), len(rows) - len(fresh))


def _rows(figures: list[Figure]) -> Iterator[PublishedScore]:
    for figure in figures:
        for pattern in figure.vendor_models:
            yield PublishedScore(vendor_model_pattern=pattern, quality=figure.quality, source=figure.source)
