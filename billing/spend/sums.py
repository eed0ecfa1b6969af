"""Sums of the ledger's figures by anything it is counted by, over any range of time.

Whole UTC days are read from sums of days, other hours from sums of hours, and the newest hours from the ledger's
lines themselves, so that figures are current although roll-ups are made every few minutes only: from the hour on in
which the last roll-up was made, yet never more than the present hour and the one before. Should roll-ups have stood
still for longer than that, older hours are as they were left (``Spend.rolled_up_to``).

A range is widened to whole UTC hours.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection

from billing.models import RollupMark
from billing.rollups import HOUR, LATENCY_BOUNDS_MS, Grain, floor_hour, lines_between, lines_parameters
from billing.spend.dimensions import (
    COLUMNS,
    FIGURE_NAMES,
    Dimension,
    Figures,
    Interval,
    Latency,
    Row,
    Spend,
    Value,
    grain_of,
)
from billing.spend.ranges import Span, ceil_hour, cut, days_and_hours, periods
from tenants.models import Tenant

MOST_ROWS: Final = 20_000
_UTC: Final = ZoneInfo("UTC")
_BUCKETS: Final = range(len(LATENCY_BOUNDS_MS) + 1)

Filters = Mapping[Dimension, Collection[Value]]
"""Values a dimension may have; None is a value too."""


class TooManyRows(ValueError):
    """More rows than anybody reads: ask for less at a time."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is wanted, apart from when."""

    by: tuple[Dimension, ...]
    where: Filters
    latency: bool = False

    @property
    def keys(self) -> list[str]:
        return [COLUMNS[dimension] for dimension in self.by]


def spend_of(
    tenant: Tenant,
    since: datetime,
    until: datetime,
    *,
    by: Iterable[Dimension] = (),
    interval: Interval | None = None,
    where: Filters | None = None,
    latency: bool = False,
    now: datetime | None = None,
) -> Spend:
    """One tenant's sums over ``[since, until)``; intervals are those of its time zone.

    A row for each combination ``by`` and of the interval that has any lines, by time and then by spend. Raises
    NotTogether, TooManyPeriods or TooManyRows (all ValueErrors).
    """
    filters = {**(where or {}), "tenant": (tenant.pk,)}
    asked = _Asked(tuple(by), filters, latency)
    return _spend(since, until, asked, interval=interval, zone=ZoneInfo(tenant.time_zone), now=now)


def spend_of_all(
    since: datetime,
    until: datetime,
    *,
    tenants: Collection[UUID] | None = None,
    by: Iterable[Dimension] = (),
    interval: Interval | None = None,
    where: Filters | None = None,
    zone: ZoneInfo = _UTC,
    latency: bool = False,
    now: datetime | None = None,
) -> Spend:
    """As :func:`spend_of`, for operators and others who may look at several tenants: all there are unless ``tenants``
    says which. What the installation spent on its own account has no tenant, and is in only with all of them."""
    filters = dict(where or {})
    if tenants is not None:
        filters["tenant"] = tuple(tenants)
    return _spend(since, until, _Asked(tuple(by), filters, latency), interval=interval, zone=zone, now=now)


def sums_of_spans(spans: Collection[Span], where: Filters, now: datetime | None = None) -> dict[int, Figures]:
    """The figures of each span, by its label; spans may overlap. One query."""
    found = _query(spans, _Asked((), where), _current_from(now)[0])
    by_label = {label: figures for label, _, figures, _ in found}
    return {span.label: by_label.get(span.label, Figures()) for span in spans}


def _spend(
    since: datetime,
    until: datetime,
    asked: _Asked,
    *,
    interval: Interval | None,
    zone: ZoneInfo,
    now: datetime | None,
) -> Spend:
    since, until = floor_hour(since), ceil_hour(until.astimezone(UTC))
    current_from, rolled_up_to = _current_from(now)
    if interval is None:
        starts: dict[int, datetime] = {}
        spans = [Span(0, since, until)]
    else:
        split = list(periods(since, until, interval, zone))
        starts = {span.label: start for start, span in split}
        spans = [span for _, span in split]
    rows = [
        Row(key, starts.get(label), figures, histogram)
        for label, key, figures, histogram in _query(spans, asked, current_from)
    ]
    if len(rows) > MOST_ROWS:
        raise TooManyRows(f"More than {MOST_ROWS} rows: ask by less, for a longer interval or a shorter range.")
    return Spend(since, until, asked.by, interval, current_from, rolled_up_to, rows)


def _current_from(now: datetime | None) -> tuple[datetime, datetime | None]:
    """The hour from which lines are read, and until when older ones have been rolled up."""
    now = now or datetime.now(UTC)
    mark = RollupMark.objects.first()
    if mark is None:
        return floor_hour(now) - HOUR, None
    return max(floor_hour(min(mark.rolled_up_to, now)), floor_hour(now) - HOUR), mark.rolled_up_to


def _query(
    spans: Collection[Span], asked: _Asked, current_from: datetime
) -> list[tuple[int, tuple[Value, ...], Figures, Latency | None]]:
    """(label, key, figures, latency) of whatever has lines, by label and then by spend."""
    statement, parameters = _statement(spans, asked, current_from)
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows = cursor.fetchall()
    first_figure = 1 + len(asked.by)
    first_bucket = first_figure + len(FIGURE_NAMES)
    return [
        (
            row[0],
            tuple(row[1:first_figure]),
            _figures(row[first_figure:first_bucket]),
            Latency(tuple(int(count) for count in row[first_bucket:])) if asked.latency else None,
        )
        for row in rows
    ]


def _figures(values: Iterable[Any]) -> Figures:
    """PostgreSQL sums whole numbers to NUMERIC."""
    named: dict[str, Any] = {
        name: value if name.endswith("_usd") else int(value) for name, value in zip(FIGURE_NAMES, values, strict=True)
    }
    return Figures(**named)


def _statement(spans: Collection[Span], asked: _Asked, current_from: datetime) -> tuple[str, dict[str, Any]]:
    grain = grain_of((*asked.by, *asked.where))
    halves = [cut(span, current_from) for span in spans]
    parts = [days_and_hours(before) for before, _ in halves if before is not None]
    days = [span for part, _ in parts for span in part]
    hours = [span for _, part in parts for span in part]
    current = [after for _, after in halves if after is not None]
    conditions, parameters = _conditions(asked.where)
    sources = []
    for table, column, ranges in ((grain.days, "day", days), (grain.hours, "hour", hours)):
        if ranges:
            parameters |= _range_parameters(column, ranges)
            sources.append(_rolled_up(table, column, asked, conditions))
    if current:
        parameters |= _range_parameters("line", current)
        parameters |= lines_parameters(min(span.since for span in current), max(span.until for span in current))
        sources.append(_current(grain, asked, conditions))
    if not sources:
        sources.append(_rolled_up(grain.hours, "hour", asked, ["false"]))
        parameters |= _range_parameters("hour", [])
    names = [*FIGURE_NAMES, *(f"b{place}" for place in _BUCKETS if asked.latency)]
    group = ", ".join(["label", *asked.keys])
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
    statement = (
        f"SELECT {group}, {sums} FROM ({' UNION ALL '.join(sources)}) part GROUP BY {group} "  # noqa: S608 - of constants
        f"ORDER BY label, sum(cost_usd) + sum(adjusted_usd) DESC, sum(attempts) DESC, {group} LIMIT {MOST_ROWS + 1}"
    )
    return statement, parameters


def _rolled_up(table: str, column: str, asked: _Asked, conditions: list[str]) -> str:
    """Sums already while reading, so that little is left to be put together. ``OFFSET 0`` keeps PostgreSQL from
    comparing each row with each range instead of looking every range up in the index."""
    group = ", ".join(["r.label", *asked.keys])
    sums = ", ".join(f"sum({name}) AS {name}" for name in FIGURE_NAMES)
    buckets = "".join(f", sum(latency_counts[{place + 1}]) AS b{place}" for place in _BUCKETS if asked.latency)
    return (
        f"SELECT {group}, {sums}{buckets} FROM {_ranges(column)} "  # noqa: S608 - of constants
        f"CROSS JOIN LATERAL (SELECT * FROM {table} WHERE {column} >= r.since AND {column} < r.until "
        f"AND {' AND '.join(conditions)} OFFSET 0) u GROUP BY {group}"
    )


def _current(grain: Grain, asked: _Asked, conditions: list[str]) -> str:
    """The same of lines that may not be rolled up yet."""
    group = ", ".join(["r.label", *asked.keys])
    sums = ", ".join(f"sum({name}) AS {name}" for name in FIGURE_NAMES)
    buckets = "".join(f", count(*) FILTER (WHERE bucket = {place}) AS b{place}" for place in _BUCKETS if asked.latency)
    only_tenants = [f"a.{condition}" for condition in conditions if condition.startswith("tenant_id")]
    return (
        f"SELECT {group}, {sums}{buckets} "  # noqa: S608 - of constants
        f"FROM (SELECT * FROM ({lines_between(' AND '.join(only_tenants) or 'true')}) line) line "
        f"{grain.lines.removeprefix('line')} "
        f"JOIN {_ranges('line')} ON line.hour >= r.since AND line.hour < r.until "
        f"WHERE {grain.counted} AND {' AND '.join(conditions)} GROUP BY {group}"
    )


def _conditions(where: Filters) -> tuple[list[str], dict[str, Any]]:
    conditions, parameters = ["true"], {}
    for dimension, values in where.items():
        column = COLUMNS[dimension]
        known = [value for value in values if value is not None]
        type_ = "uuid" if column.endswith("_id") else "text"
        condition = f"{column} = ANY(%(where_{dimension})s::{type_}[])"
        conditions.append(condition if len(known) == len(values) else f"({condition} OR {column} IS NULL)")
        parameters[f"where_{dimension}"] = known
    return conditions, parameters


def _ranges(name: str) -> str:
    arrays = ", ".join(
        (f"%({name}_labels)s::int[]", *(f"%({name}_{end})s::timestamptz[]" for end in ("since", "until")))
    )
    return f"unnest({arrays}) AS r(label, since, until)"


def _range_parameters(name: str, spans: list[Span]) -> dict[str, Any]:
    return {
        f"{name}_labels": [span.label for span in spans],
        f"{name}_since": [span.since for span in spans],
        f"{name}_until": [span.until for span in spans],
    }
