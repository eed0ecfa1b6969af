"""How beliefs and spend moved from day to day, as lines to draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from routing.models import WeightSnapshot

WIDTH, HEIGHT, MARGIN = 240, 40, 4
LEAST_SPREAD: Final = 0.05


@dataclass(frozen=True, slots=True)
class Curve:
    """A line in a box of WIDTH by HEIGHT: ``points`` as SVG has them, ``end`` its last, and the values at its ends."""

    name: str
    points: str
    end: tuple[float, float]
    first: float
    last: float
    since: date
    until: date


def belief_curves(snapshots: Sequence[WeightSnapshot]) -> list[Curve]:
    """One for each model, all on one scale of quality, the best of the last day first. ``snapshots`` are in order."""
    by_model: dict[str, list[tuple[date, float]]] = {}
    for snapshot in snapshots:
        for model, known in snapshot.by_model.items():
            if (mean := known.get("mean")) is not None:
                by_model.setdefault(model, []).append((snapshot.day, float(mean)))
    if not by_model:
        return []
    values = [value for known in by_model.values() for _, value in known]
    low, high = min(values), max(values)
    days = (snapshots[0].day, snapshots[-1].day)
    curves = [_curve(model, known, days, low, max(high, low + LEAST_SPREAD)) for model, known in by_model.items()]
    return sorted(curves, key=lambda curve: -curve.last)


def spend_curve(snapshots: Sequence[WeightSnapshot]) -> Curve | None:
    """USD per 1,000 routed requests of each day that had any."""
    known = [(day.day, 1000 * float(day.cost_usd) / day.requests) for day in snapshots if day.requests]
    if not known:
        return None
    highest = max(value for _, value in known)
    return _curve("USD per 1,000", known, (known[0][0], known[-1][0]), 0.0, highest or 1.0)


def _curve(name: str, known: Sequence[tuple[date, float]], days: tuple[date, date], low: float, high: float) -> Curve:
    span = max((days[1] - days[0]).days, 1)
    places = [
        (
            round(MARGIN + (WIDTH - 2 * MARGIN) * (day - days[0]).days / span, 1),
            round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low), 1),
        )
        for day, value in known
    ]
    points = " ".join(f"{x},{y}" for x, y in places)
    return Curve(name, points, places[-1], known[0][1], known[-1][1], known[0][0], known[-1][0])
