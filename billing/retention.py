"""The end of what was only kept for a while: request logs and their contents, and records of background runs.

How long a tenant's request logs are kept is its plan's ``retention_days``. The ledger, its adjustments and all sums
are kept for ever.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import connection

from audit.models import JobRun
from billing.models import Subscription
from gateway.rows import first_id
from tenants.models import Tenant

JOB_RUNS_KEPT: Final = timedelta(days=90)
ROWS_AT_A_TIME: Final = 5_000
# Table and key. Named here, as their models stand above this floor.
_LOGS: Final = (
    ("gateway_requestlog", "id"),
    ("gateway_requestcontent", "request_id"),
    ("routing_decision", "request_id"),
)
_LONGEST_DAYS: Final = 36_500 // 2  # the calendar begins in 1970
_FIRST: Final = uuid.UUID(int=0)


def retain(now: datetime | None = None) -> dict[str, Any]:
    """Remove what nobody keeps any longer. Returns for the job's record: ``dropped`` (names of partitions), ``deleted``
    (rows, by table).

    A month that is over for every tenant goes as a whole, as long as nobody is reading it right then; otherwise rows
    go tenant by tenant, some at a time, so that nobody waits long for a lock.
    """
    now = now or datetime.now(UTC)
    by_days = _tenants_by_days()
    longest = max([default_days(), *by_days])
    dropped = _drop_months_before(now - timedelta(days=longest))
    deleted: dict[str, int] = defaultdict(int)
    for table, key in _LOGS:
        for days, tenants in by_days.items():
            deleted[table] += _delete(table, key, now - timedelta(days=days), "tenant_id = ANY(%s::uuid[])", tenants)
        kept = [tenant for tenants in by_days.values() for tenant in tenants]
        gone = now - timedelta(days=default_days())
        deleted[table] += _delete(table, key, gone, "tenant_id <> ALL(%s::uuid[])", kept)
    runs, _ = JobRun.objects.filter(started_at__lt=now - JOB_RUNS_KEPT).delete()
    deleted["audit_jobrun"] = runs
    return {"dropped": dropped, "deleted": dict(deleted)}


def default_days() -> int:
    """Of tenants without a plan."""
    return int(getattr(settings, "LOG_RETENTION_DAYS", 90))


def _tenants_by_days() -> dict[int, list[uuid.UUID]]:
    agreed = {
        subscription.tenant_id: min(int(subscription.terms()["retention_days"]), _LONGEST_DAYS)
        for subscription in Subscription.objects.select_related("plan")
    }
    by_days: dict[int, list[uuid.UUID]] = defaultdict(list)
    for tenant in Tenant.objects.values_list("pk", flat=True):
        by_days[agreed.get(tenant, default_days())].append(tenant)
    return dict(by_days)


def _drop_months_before(moment: datetime) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pointsman_drop_log_partitions(%s)", [moment])
        (dropped,) = cursor.fetchone()
    return list(dropped)


def _delete(table: str, key: str, before: datetime, whose: str, tenants: list[uuid.UUID]) -> int:
    """Delete rows made before a moment; returns how many."""
    return sum(_batches(table, key, first_id(before), whose, tenants))


def _batches(table: str, key: str, end: uuid.UUID, whose: str, tenants: list[uuid.UUID]) -> Iterator[int]:
    """Forward through the keys, so that rows others still keep are passed once."""
    reached = _FIRST
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                f"""
                WITH old AS (
                  SELECT {key} AS key FROM {table} WHERE {key} >= %s AND {key} < %s AND {whose}
                  ORDER BY {key} LIMIT {ROWS_AT_A_TIME}
                ), deleted AS (
                  DELETE FROM {table} USING old WHERE {key} = old.key AND {key} >= %s AND {key} < %s RETURNING 1
                )
                SELECT (SELECT count(*) FROM deleted), (SELECT key FROM old ORDER BY key DESC LIMIT 1)
                """,  # noqa: S608 - of constants
                [reached, end, tenants, reached, end],
            )
            count, last = cursor.fetchone()
        yield int(count)
        if last is None or count < ROWS_AT_A_TIME:
            return
        reached = last
