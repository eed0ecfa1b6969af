"""Keeps the partitioned tables ahead of the calendar (see :mod:`gateway.schema`)."""

from datetime import UTC, datetime, timedelta

from django.db import connection

AHEAD = timedelta(days=62)


def make_ahead() -> int:
    """Partitions of the current and the next two months; returns how many were missing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pointsman_make_partitions(%s)", [datetime.now(UTC).date() + AHEAD])
        (made,) = cursor.fetchone()
    return int(made)
