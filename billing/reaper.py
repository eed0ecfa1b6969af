"""Closes what dead processes left open: each such attempt is settled as abandoned, at what was reserved for it.

A process is lost when its heartbeat has stopped for :attr:`GatewayProcess.LOST_AFTER`, or when it has no row at all.
One that comes back finds its attempts settled: the first settlement counts. So nothing is taken from a process that
merely could not reach the database; see :func:`_reason_to_wait`.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import DataError, IntegrityError, connection, transaction

from audit.jobs import SCHEDULE, run_job
from audit.models import JobRun
from billing.groupcommit import json_rows
from billing.ledger import HEARTBEAT_S, NewSettlement
from billing.models import GatewayProcess, Settlement
from billing.pricing import MOST_DECIMALS, PICO_PER_MILLIONTH
from billing.spool import SPOOL_FOLDER, Spool
from gateway.rows import first_id, moment_of
from gateway.wire.types import Usage

logger = logging.getLogger(__name__)

Settle = Callable[[Sequence[NewSettlement]], int]
"""Writes settlements whose attempts have none yet, and returns how many those were."""

JOB: Final = "reap"
ERROR_CODE: Final = "abandoned"
BATCH: Final = 1000
LOOKS_BACK: Final = timedelta(days=7)
LOOKS_AT_ALL_EVERY: Final = timedelta(hours=1)  # for attempts of processes whose clock was far behind
TWO_BEATS: Final = timedelta(seconds=2 * HEARTBEAT_S)
BEATS_ARE_FRESH_FOR: Final = timedelta(seconds=30)

_PICO: Final = 10**MOST_DECIMALS * PICO_PER_MILLIONTH
_NOT_WATCHED_YET: Final = "heartbeats have not been watched for long enough"

_OPEN: Final = """
FROM billing_attempt a
WHERE a.id >= %(from)s AND a.id < %(to)s
  AND NOT EXISTS (
    SELECT FROM billing_settlement s
    WHERE s.attempt_id = a.id AND s.attempt_id >= %(from)s AND s.attempt_id < %(to)s)
"""
_OF_THE_LOST: Final = f"""
SELECT a.id, a.tenant_id, a.price_version_id, trunc(a.held_usd * {_PICO}), coalesce(a.held_tokens, 0)
FROM (SELECT * {_OPEN} AND NOT EXISTS (
    SELECT FROM billing_gatewayprocess p WHERE p.id = a.process_id AND p.heartbeat_at >= %(lost_before)s)
  ORDER BY a.id LIMIT {BATCH}) a
ORDER BY a.id
"""  # noqa: S608 - made of constants
_FIRST_OPEN: Final = f"SELECT a.id {_OPEN} ORDER BY a.id LIMIT 1"
_REMOVE_PROCESSES: Final = f"""
DELETE FROM billing_gatewayprocess p
WHERE p.heartbeat_at < %(lost_before)s AND p.id NOT IN (SELECT a.process_id {_OPEN})
"""  # noqa: S608
_HEALTH: Final = """
SELECT pg_postmaster_start_time(), (SELECT max(heartbeat_at) FROM billing_gatewayprocess)
"""
_SETTLE: Final = "SELECT pointsman_settle(%s::json)"


def reap_as_job(started_by: str = SCHEDULE) -> JobRun:
    """One run of the job, as its record says it went; while another worker is at it, it is skipped.

    What a run has learned (how far everything is settled, since when processes beat) the next one reads in its facts.
    """

    def work() -> dict[str, Any]:
        replayed = replay_left_spools(Path(settings.DATA_DIR) / SPOOL_FOLDER)
        return {"replayed": replayed, **reap(_database_time(), previous=_previous_facts())}

    return run_job(JOB, work, started_by)


def reap_by_hand(started_by: str) -> JobRun:
    """As :func:`reap_as_job`; where the schedule has not been watching heartbeats, watches them for two beats first."""
    run = reap_as_job(started_by)
    if run.facts.get("waiting") == _NOT_WATCHED_YET:
        time.sleep(TWO_BEATS.total_seconds())
        run = reap_as_job(started_by)
    return run


def reap(now: datetime, settle: Settle | None = None, previous: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settle what lost processes have left open in the last seven days, and forget processes that left nothing.

    ``previous`` are the facts of the run before: this one goes on from where everything was settled, and trusts
    heartbeats only when that run saw them too. Without it, all seven days are looked at, and nothing is presumed.

    Returns facts: ``settled`` attempts, ``processes_removed``, ``through`` (the moment before which all is settled),
    or, under ``waiting``, why nothing was done. Safe while others do the same: the first settlement counts.
    """
    watched = _watched(now, previous)
    reason = _reason_to_wait(now, previous, watched)
    if reason:
        kept = {name: (previous or {})[name] for name in ("through", "whole_at") if name in (previous or {})}
        return {**kept, "settled": 0, "processes_removed": 0, "waiting": reason, **watched}
    start, whole_at = _where_to_start(now, previous)
    bounds = {
        "from": first_id(start),
        "to": first_id(now - GatewayProcess.LOST_AFTER),
        "lost_before": now - GatewayProcess.LOST_AFTER,
    }
    settled = _settle_open_attempts(now, bounds, settle or _settle)
    first_open = _rows(_FIRST_OPEN, bounds)
    through = moment_of(uuid.UUID(str(first_open[0][0] if first_open else bounds["to"])))
    return {
        "settled": settled,
        "processes_removed": _remove_processes(bounds, now),
        "through": through.isoformat(),
        "whole_at": whole_at.isoformat(),
        **watched,
    }


def replay_left_spools(directory: Path) -> int:
    """Bring into the ledger what dead processes of this machine have put on its disk: what really was used goes before
    what was held. Returns how many settlements that were."""
    spool, replayed = Spool(directory, f"reaper-{os.getpid()}"), 0
    try:
        for segment in spool.segments_to_replay():
            records = spool.read(segment)
            while lines := list(islice(records, BATCH)):
                replayed += _settle_lines(lines)
            spool.remove(segment)
    finally:
        spool.close()
    return replayed


def _settle_lines(lines: Sequence[bytes]) -> int:
    """A line that PostgreSQL refuses is left out, and logged."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_SETTLE, [(b"[" + b",".join(lines) + b"]").decode()])
            (written,) = cursor.fetchone()
            return int(written)
    except (DataError, IntegrityError) as exc:
        if len(lines) == 1:
            logger.error("PostgreSQL refuses a spooled settlement (%s): %s", exc, lines[0].decode(errors="replace"))
            return 0
        middle = len(lines) // 2
        return _settle_lines(lines[:middle]) + _settle_lines(lines[middle:])


def _settle_open_attempts(now: datetime, bounds: Mapping[str, Any], settle: Settle) -> int:
    settled, here = 0, dict(bounds)
    while batch := _rows(_OF_THE_LOST, here):
        settled += settle([_abandoned(now, row) for row in batch])
        here["from"] = uuid.UUID(int=batch[-1][0].int + 1)
    return settled


def _abandoned(now: datetime, row: tuple[Any, ...]) -> NewSettlement:
    """What was held is taken for used. A hold does not tell token classes apart, so its tokens stand as input.

    Checks of the installation's own providers have no tenant.
    """
    attempt_id, tenant_id, price, held, tokens = row
    cost = int(held) if held is not None else None if price is None else 0
    return NewSettlement(
        attempt_id=str(attempt_id),
        tenant_id=str(tenant_id) if tenant_id else None,  # type: ignore[arg-type]
        outcome=Settlement.Outcome.ABANDONED.value,
        usage=Usage(input=int(tokens), source="estimated"),
        cost_pico=cost,
        price_version_id=str(price) if price else None,
        status_code=None,
        error_code=ERROR_CODE,
        first_token_at=None,
        ended_at=now.timestamp(),
    )


def _settle(batch: Sequence[NewSettlement]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_SETTLE, [json_rows(list(batch)).decode()])
        (written,) = cursor.fetchone()
    return int(written)


def _remove_processes(bounds: Mapping[str, Any], now: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_REMOVE_PROCESSES, {**bounds, "to": first_id(now + LOOKS_BACK)})
        return int(cursor.rowcount)


def _reason_to_wait(now: datetime, previous: Mapping[str, Any] | None, watched: Mapping[str, str]) -> str:
    """Why missing heartbeats prove nothing just now; "" when they do.

    While PostgreSQL was away nobody could beat. Its return shows in another process's heartbeat, two beats after
    which every process that lives has had its chance.
    """
    ((server_started_at, _),) = _rows(_HEALTH)
    if now - server_started_at < GatewayProcess.LOST_AFTER + TWO_BEATS:
        return "PostgreSQL has not been up for long enough"
    if "beating_since" not in watched:
        return "no gateway process has a heartbeat, as when none can reach PostgreSQL"
    if previous is not None and now - datetime.fromisoformat(watched["beating_since"]) < TWO_BEATS:
        return _NOT_WATCHED_YET
    return ""


def _watched(now: datetime, previous: Mapping[str, Any] | None) -> dict[str, str]:
    """Since when heartbeats have been seen by runs without a gap in which an outage could hide."""
    ((_, newest),) = _rows(_HEALTH)
    if newest is None or newest < now - BEATS_ARE_FRESH_FOR:
        return {"seen_at": now.isoformat()}
    before = previous or {}
    unbroken = (
        "beating_since" in before and now - datetime.fromisoformat(before["seen_at"]) <= GatewayProcess.LOST_AFTER / 2
    )
    return {"seen_at": now.isoformat(), "beating_since": before["beating_since"] if unbroken else now.isoformat()}


def _where_to_start(now: datetime, previous: Mapping[str, Any] | None) -> tuple[datetime, datetime]:
    """From when on attempts are looked at, and when all of them were last."""
    if previous and "through" in previous:
        whole_at = datetime.fromisoformat(previous["whole_at"])
        if now - whole_at < LOOKS_AT_ALL_EVERY:
            return datetime.fromisoformat(previous["through"]), whole_at
    return now - LOOKS_BACK, now


def _previous_facts() -> dict[str, Any]:
    done = JobRun.objects.filter(job=JOB, outcome=JobRun.Outcome.DONE).order_by("-id").first()
    return dict(done.facts) if done else {}


def _database_time() -> datetime:
    """Heartbeats are by this clock; the worker's own may differ."""
    now: datetime = _rows("SELECT clock_timestamp()")[0][0]
    return now


def _rows(query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
