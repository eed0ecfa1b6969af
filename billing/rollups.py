"""Sums by the hour and by the UTC day, made of the ledger's lines again and again until no line is missing.

An hour is that of an attempt's ``started_at``. Whenever one of its lines came or was adjusted the whole hour is made
again in one transaction, so a run may be repeated, be cut short or come late: the sums are those of the lines there
are. Only settled attempts count. Days are sums of hours; they have no model, as nothing but :mod:`billing.spend`
reads them.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from billing.models import RollupMark
from gateway.rows import first_id

LATENCY_BOUNDS_MS: Final = tuple(round(10 ** (1 + step / 10), 3) for step in range(51))
"""Upper bounds of a histogram's buckets, ten to a decade from 10 ms to 1,000 s; one more bucket takes what is above."""

PERCENTILE_ERROR: Final = 10 ** (1 / 20) - 1
"""How far :func:`percentile` may be off, relatively, between the first and the last bound: 12.2 per cent."""

OVERLAP: Final = timedelta(minutes=2)
"""How much of what the last run has seen is looked at again; more than any two clocks of an installation differ."""

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
_SLACK: Final = timedelta(minutes=1)  # between the moment in an attempt's key and its started_at
_LATENCY: Final = "latency_counts"

_UNPRICED: Final = "(s.cost_usd IS NULL AND (s.outcome = 'settled' OR s.input_tokens > 0))::int"

# What a line adds to a sum, by the sum's column.
FIGURES: Final = {
    "attempts": "1",
    "requests": "(a.purpose = 'serve')::int",
    "failed": "(s.outcome = 'failed')::int",
    "cancelled": "(s.outcome = 'cancelled')::int",
    "abandoned": "(s.outcome = 'abandoned')::int",
    "estimated": "(s.usage_source <> 'vendor')::int",
    "unpriced": _UNPRICED,
    "cache_hits": "(s.saved_usd > 0)::int",
    "input_tokens": "s.input_tokens + s.audio_input_tokens",
    "cached_input_tokens": "s.cached_input_tokens",
    "cache_write_tokens": "s.cache_write_5m_tokens + s.cache_write_1h_tokens",
    "output_tokens": "s.output_tokens + s.audio_output_tokens",
    "reasoning_tokens": "s.reasoning_tokens",
    "cost_usd": "coalesce(s.cost_usd, 0)",
    "adjusted_usd": "0",
    "saved_usd": "s.saved_usd",
}
# What its adjustments add: an attempt whose price was found afterwards is unpriced no more.
_ADJUSTED: Final = dict.fromkeys(FIGURES, "0") | {
    "adjusted_usd": "d.usd",
    "unpriced": f"-(d.priced::int * {_UNPRICED})",
}
_LATENCY_MS: Final = "CASE WHEN s.outcome = 'settled' THEN extract(epoch FROM s.ended_at - a.started_at) * 1000 END"


@dataclass(frozen=True, slots=True)
class Grain:
    """One kind of roll-up: its tables, and what it is counted by besides the time."""

    hours: str
    days: str
    columns: tuple[str, ...]
    lines: str = "line"  # what of the lines is counted
    counted: str = "true"


BY_CALL: Final = Grain(
    "billing_usagehour",
    "billing_usageday",
    ("tenant_id", "project_id", "token_id", "model_id", "provider_id", "vendor_model", "purpose", "task_type",
     "complexity"),
)  # fmt: skip
BY_TAG: Final = Grain(
    "billing_usagehourtag",
    "billing_usagedaytag",
    ("tenant_id", "project_id", "tag"),
    "line CROSS JOIN LATERAL ("
    "SELECT DISTINCT left(t.tag, 256) AS tag FROM jsonb_array_elements_text(line.tags) t(tag)) g",
)
BY_USER: Final = Grain(
    "billing_usagehouruser",
    "billing_usagedayuser",
    ("tenant_id", "project_id", "end_user"),
    counted="line.end_user <> ''",
)
# Counted by less, and so of far fewer rows: what most questions need.
BY_MODEL: Final = Grain(
    "billing_usagehourmodel",
    "billing_usagedaymodel",
    ("tenant_id", "project_id", "token_id", "model_id", "provider_id", "vendor_model", "purpose"),
)
BY_CELL: Final = Grain(
    "billing_usagehourcell",
    "billing_usagedaycell",
    ("tenant_id", "project_id", "purpose", "task_type", "complexity"),
)
GRAINS: Final = (BY_CELL, BY_MODEL, BY_CALL, BY_TAG, BY_USER)
"""The ones of fewer rows first."""


def lines_between(extra: str = "true") -> str:
    """SQL for what adds to sums of the settled attempts that started in ``[lo, hi)``: a row for each attempt and
    another where it was adjusted. Takes :func:`lines_parameters`; ``extra`` is a condition on the attempt ``a``.

    ``OFFSET 0`` makes PostgreSQL look the one row up by its key: it cannot tell how many keys a range of them has,
    takes it for none, and would compare all with all.
    """
    what = (
        "a.tenant_id, a.project_id, a.token_id, a.model_id, a.provider_id, a.vendor_model, a.purpose, a.task_type, "
        "a.complexity, a.end_user, a.tags, date_trunc('hour', a.started_at, 'UTC') AS hour"
    )
    line, adjusted = (
        ", ".join(f"{expression} AS {name}" for name, expression in figures.items()) for figures in (FIGURES, _ADJUSTED)
    )
    settlement = "LATERAL (SELECT * FROM billing_settlement s WHERE s.attempt_id = a.id OFFSET 0) s"
    started = f"a.started_at >= %(lo)s AND a.started_at < %(hi)s AND {extra}"
    return f"""
    SELECT {what}, {line}, width_bucket({_LATENCY_MS}, %(bounds)s::numeric[]) AS bucket
    FROM billing_attempt a CROSS JOIN {settlement} WHERE a.id >= %(first)s AND a.id < %(last)s AND {started}
    UNION ALL
    SELECT {what}, {adjusted}, NULL
    FROM (
      SELECT attempt_id, sum(amount_usd) AS usd, bool_or(reason = 'reprice') AS priced FROM billing_adjustment
      WHERE attempt_id >= %(first)s AND attempt_id < %(last)s GROUP BY attempt_id
    ) d CROSS JOIN LATERAL (SELECT * FROM billing_attempt WHERE id = d.attempt_id OFFSET 0) a CROSS JOIN {settlement}
    WHERE {started}
    """  # noqa: S608 - of constants


def lines_parameters(lo: datetime, hi: datetime) -> dict[str, Any]:
    """Keys sort by time, so a range of them keeps a query within the partitions it needs."""
    return {
        "lo": lo,
        "hi": hi,
        "first": first_id(lo - _SLACK),
        "last": first_id(hi + _SLACK),
        "bounds": list(LATENCY_BOUNDS_MS),
    }


def roll_up(now: datetime | None = None) -> dict[str, Any]:
    """Make every hour again that got settlements or adjustments since the last run, and the days these are in.

    Returns counts for the job's record: ``hours``, ``days``, and ``rolled_up_to``, the moment up to which lines are in.
    """
    mark = _mark_of_this_run(now)
    before = RollupMark.objects.first()
    hours = _hours_touched_since(before.rolled_up_to - OVERLAP if before else None)
    days = roll_up_hours(hours)
    RollupMark.objects.update_or_create(pk=1, defaults={"rolled_up_to": mark})
    return {"hours": len(hours), "days": days, "rolled_up_to": mark.isoformat()}


def roll_up_hours(hours: Iterable[datetime]) -> int:
    """Make these hours (their UTC starts) again, and the days they are in; returns how many days that are."""
    wanted = sorted(set(hours))
    for hour in wanted:
        _make_hour(hour)
    days = sorted({hour.replace(hour=0) for hour in wanted})
    for day in days:
        _make_day(day)
    return len(days)


def hours_between(lo: datetime, hi: datetime) -> Iterator[datetime]:
    """The UTC starts of all hours that ``[lo, hi)`` touches."""
    hour = floor_hour(lo)
    while hour < hi:
        yield hour
        hour += HOUR


def floor_hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def percentile(counts: Sequence[int], share: float) -> float | None:
    """Milliseconds that ``share`` (0 to 1) of what a histogram counts stay within; None of an empty one.

    A value is known to lie in its bucket, whose geometric middle is given: at most :data:`PERCENTILE_ERROR` off.
    """
    total = sum(counts)
    if not total:
        return None
    rank, seen = max(1, math.ceil(share * total)), 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return _middle_ms(bucket)
    raise AssertionError("a rank is never beyond the total")


def bucket_of(latency_ms: float) -> int:
    """The place in a histogram where a latency is counted."""
    return bisect.bisect_right(LATENCY_BOUNDS_MS, latency_ms)


def _middle_ms(bucket: int) -> float:
    if bucket == 0:
        return LATENCY_BOUNDS_MS[0]
    if bucket == len(LATENCY_BOUNDS_MS):
        return LATENCY_BOUNDS_MS[-1]
    return math.sqrt(LATENCY_BOUNDS_MS[bucket - 1] * LATENCY_BOUNDS_MS[bucket])


def _mark_of_this_run(now: datetime | None) -> datetime:
    """Up to when what is committed is seen: a line carries the moment its transaction began, so not beyond the
    beginning of any that is still under way."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT least(clock_timestamp(), min(xact_start)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        (found,) = cursor.fetchone()
    mark: datetime = found
    return min(mark, now) if now else mark


def _hours_touched_since(since: datetime | None) -> list[datetime]:
    """Without ``since``: all that ever were."""
    settled, adjusted = ("s.settled_at >= %(since)s", "d.created_at >= %(since)s") if since else ("true", "true")
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT date_trunc('hour', a.started_at, 'UTC')
            FROM billing_settlement s JOIN billing_attempt a ON a.id = s.attempt_id WHERE {settled}
            UNION
            SELECT date_trunc('hour', a.started_at, 'UTC')
            FROM billing_adjustment d JOIN billing_attempt a ON a.id = d.attempt_id WHERE {adjusted}
            """,  # noqa: S608 - of constants
            {"since": since},
        )
        return [hour for (hour,) in cursor.fetchall()]


def _make_hour(hour: datetime) -> None:
    """One snapshot of the lines for all grains: what comes meanwhile touches the hour again."""
    inserts = ", ".join(
        f"{grain.hours}_made AS ({_insert(grain, grain.hours, 'hour', _counted(grain))})" for grain in GRAINS
    )
    statement = f"WITH line AS MATERIALIZED ({lines_between()}), {inserts} SELECT"
    _replace(hour, "hour", [grain.hours for grain in GRAINS], [statement], lines_parameters(hour, hour + HOUR))


def _make_day(day: datetime) -> None:
    summed = ", ".join(f"sum({name}) AS {name}" for name in FIGURES)
    latency = ", ".join(
        f"coalesce(sum({_LATENCY}[{place}]), 0)::bigint" for place in range(1, len(LATENCY_BOUNDS_MS) + 2)
    )
    statements = [
        _insert(
            grain,
            grain.days,
            "day",
            f"SELECT {', '.join(grain.columns)}, %(lo)s::timestamptz AS day, {summed}, "  # noqa: S608 - of constants
            f"CASE WHEN bool_or({_LATENCY} <> '{{}}') THEN ARRAY[{latency}] ELSE '{{}}' END AS {_LATENCY} "
            f"FROM {grain.hours} WHERE hour >= %(lo)s AND hour < %(hi)s GROUP BY {', '.join(grain.columns)}",
        )
        for grain in GRAINS
    ]
    _replace(day, "day", [grain.days for grain in GRAINS], statements, {"lo": day, "hi": day + DAY})


def _replace(
    moment: datetime, column: str, tables: list[str], statements: list[str], parameters: dict[str, Any]
) -> None:
    """Whatever was there of ``moment`` goes and what the statements insert comes, at once; one at a time."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('pointsman roll-ups', 0))")
        for table in tables:
            cursor.execute(f"DELETE FROM {table} WHERE {column} = %s", [moment])  # noqa: S608 - of constants
        for statement in statements:
            cursor.execute(statement, parameters)


def _counted(grain: Grain) -> str:
    """The grain's sums out of the lines."""
    summed = ", ".join(f"sum({name}) AS {name}" for name in FIGURES)
    buckets = ", ".join(f"count(*) FILTER (WHERE bucket = {place})" for place in range(len(LATENCY_BOUNDS_MS) + 1))
    return (
        f"SELECT {', '.join(grain.columns)}, hour, {summed}, "  # noqa: S608 - of constants
        f"CASE WHEN count(bucket) = 0 THEN '{{}}' ELSE ARRAY[{buckets}] END AS {_LATENCY} "
        f"FROM {grain.lines} WHERE {grain.counted} GROUP BY {', '.join(grain.columns)}, hour"
    )


def _insert(grain: Grain, table: str, moment: str, sums: str) -> str:
    """A key begins with its row's moment: rows of one time, and of one tenant within it, stay together."""
    columns = ", ".join((*grain.columns, moment, *FIGURES, _LATENCY))
    key = f"overlay(gen_random_uuid()::text PLACING left(pointsman_first_id({moment})::text, 13) FROM 1)::uuid"
    return (
        f"INSERT INTO {table} (id, {columns}) SELECT {key}, {columns} FROM ({sums}) summed "  # noqa: S608 - of constants
        f"ORDER BY tenant_id, project_id"
    )
