"""Background work, one run at a time: each run is a row that says what it saw and how it ended.

A job holds a PostgreSQL advisory lock by its name on the connection it works on, so that any number of workers and
shells may start it and one does it. The lock ends with the connection: a killed run blocks nobody.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.db import Error, connection

from audit.models import JobRun

logger = logging.getLogger(__name__)

SCHEDULE: Final = "schedule"
"""Who starts what nobody started by hand."""

_CUT_SHORT: Final = "The process ended before the job did."


def in_words(fact: Any) -> str:
    """The value of a fact, for people; '' where there is none."""
    if fact in (None, "", [], {}):
        return ""
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


class AlreadyRunning(Exception):
    """Another worker is at this job; that this one came is recorded as skipped."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run under way. What is put into ``facts`` (JSON: counts and decisions, by name) is kept, however it ends."""

    record: JobRun
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def job_run(name: str, started_by: str = SCHEDULE) -> Iterator[Run]:
    """Do the job inside, unless another worker is at it: then it is recorded as skipped and AlreadyRunning is raised.

    Enter it outside a transaction, so that the record outlives a failure. Exceptions are recorded and raised again.
    """
    if not _lock(name):
        now = datetime.now(UTC)
        JobRun.objects.create(
            job=name, started_by=started_by[:254], started_at=now, ended_at=now, outcome=JobRun.Outcome.SKIPPED
        )
        raise AlreadyRunning(f"The job '{name}' is under way elsewhere.")
    try:
        _close_what_was_cut_short(name)
        run = Run(JobRun.objects.create(job=name, started_by=started_by[:254], started_at=datetime.now(UTC)))
        try:
            yield run
        except BaseException as exc:
            logger.exception("the job %s failed", name)
            _end(run, JobRun.Outcome.FAILED, f"{type(exc).__name__}: {exc}"[:1000])
            raise
        _end(run, JobRun.Outcome.DONE)
    finally:
        _unlock(name)


def run_job(name: str, work: Callable[[], dict[str, Any]], started_by: str = SCHEDULE) -> JobRun:
    """Run ``work`` as a job whose facts are what it returns. What is under way elsewhere is left to it: the record
    then says skipped. Raises what ``work`` raises."""
    try:
        with job_run(name, started_by) as run:
            run.facts.update(work())
        _forget_former_idling(run)
    except AlreadyRunning:
        return JobRun.objects.filter(job=name, outcome=JobRun.Outcome.SKIPPED).latest("id")
    return run.record


def _forget_former_idling(run: Run) -> None:
    """Of runs one after the other that found nothing to do, the last one is kept: some jobs run every few seconds."""
    former = JobRun.objects.filter(job=run.record.job, id__lt=run.record.pk).order_by("-id").first()
    if former is not None and _idle(run.record) and _idle(former):
        former.delete()


def _idle(record: JobRun) -> bool:
    counts = [value for value in record.facts.values() if isinstance(value, int)]
    return record.outcome in (JobRun.Outcome.DONE, JobRun.Outcome.SKIPPED) and not any(counts)


def _end(run: Run, outcome: JobRun.Outcome, error: str = "") -> None:
    """A record that cannot be written does not hide how the job ended."""
    record = run.record
    record.outcome, record.error, record.facts, record.ended_at = outcome, error, run.facts, datetime.now(UTC)
    try:
        record.save(update_fields=("outcome", "error", "facts", "ended_at"))
    except Error:
        logger.exception("how the job %s ended (%s) cannot be recorded", record.job, outcome)


def _close_what_was_cut_short(name: str) -> None:
    """Whoever holds the lock is the only one at it: other runs that seem to be under way were killed."""
    JobRun.objects.filter(job=name, outcome=JobRun.Outcome.RUNNING).update(
        outcome=JobRun.Outcome.FAILED, error=_CUT_SHORT, ended_at=datetime.now(UTC)
    )


def _lock(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [_key(name)])
        (taken,) = cursor.fetchone()
    return bool(taken)


def _unlock(name: str) -> None:
    with suppress(Error), connection.cursor() as cursor:  # a connection that was lost has given it up
        cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [_key(name)])


def _key(name: str) -> str:
    return f"pointsman job {name}"
