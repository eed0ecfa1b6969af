"""Spans of time as roll-ups have them: whole UTC hours, and whole UTC days where a span has room for them.

In a zone that is not whole hours away from UTC an hour belongs to the day in which it begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from billing.rollups import DAY, HOUR, floor_hour
from billing.spend.dimensions import Interval
from billing.windows import Window

MOST_PERIODS: Final = 10_000


class TooManyPeriods(ValueError):
    """The interval is too short for the range."""


@dataclass(frozen=True, slots=True)
class Span:
    """``[since, until)`` in whole UTC hours; ``label`` names what it is summed up under."""

    label: int
    since: datetime
    until: datetime


def ceil_hour(moment: datetime) -> datetime:
    floor = floor_hour(moment)
    return floor if floor == moment else floor + HOUR


def ceil_day(moment: datetime) -> datetime:
    day = moment.replace(hour=0)
    return day if day == moment else day + DAY


def periods(since: datetime, until: datetime, interval: Interval, zone: ZoneInfo) -> Iterator[tuple[datetime, Span]]:
    """The periods that ``[since, until)`` (whole hours) touches, by their start in ``zone`` and what is in the range.

    Raises TooManyPeriods for more than :data:`MOST_PERIODS`.
    """
    window = Window(kind=interval, time_zone=str(zone))
    moment = since
    for label in range(MOST_PERIODS):
        if moment >= until:
            return
        start, end = calendar_period(window, moment)
        last = min(ceil_hour(end), until)
        yield start.astimezone(zone), Span(label, moment, last)
        moment = last
    raise TooManyPeriods(f"More than {MOST_PERIODS} periods: take a longer interval or a shorter range.")


def calendar_period(window: Window, moment: datetime) -> tuple[datetime, datetime]:
    """Start and end of the period ``moment`` is in. Raises ValueError where periods do not end."""
    start, end = window.period(moment)
    if end is None:
        raise ValueError(f"{window.kind} is no interval.")
    return start, end


def days_and_hours(span: Span) -> tuple[list[Span], list[Span]]:
    """The whole UTC days of a span as one span, and the hours before and after them."""
    first_day, last_day = ceil_day(span.since), span.until.replace(hour=0)
    if first_day >= last_day:
        return [], [span]
    hours = [Span(span.label, span.since, first_day), Span(span.label, last_day, span.until)]
    return [Span(span.label, first_day, last_day)], [part for part in hours if part.since < part.until]


def cut(span: Span, at: datetime) -> tuple[Span | None, Span | None]:
    """What of a span is before ``at`` (a whole hour), and what from then on."""
    before = Span(span.label, span.since, min(span.until, at))
    after = Span(span.label, max(span.since, at), span.until)
    return (before if before.since < before.until else None, after if after.since < after.until else None)


def back(moment: datetime, days: int, zone: ZoneInfo) -> datetime:
    """The same time by the clock of ``zone``, so many days earlier."""
    local = moment.astimezone(zone)
    return (local - timedelta(days=days)).astimezone(moment.tzinfo)
