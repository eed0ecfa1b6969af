"""What runs by itself: each job of the one schedule, how it went last, when it is due, and a way to start it now.

The schedule is the Celery application's (``gateway/celery.py``). Its entries are named as their runs are
(:attr:`audit.models.JobRun.job`), and each task takes whoever started it as ``started_by``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from celery import Celery
from celery.app.utils import find_app
from celery.schedules import crontab, maybe_schedule
from django.db import transaction
from kombu.exceptions import KombuError

from audit.models import JobRun
from audit.record import Actor, record
from gateway.rows import first_id

APPLICATION: Final = "gateway.celery"  # by name, as `celery --app` has it: it is the roof, and this is the ground floor
LOOKS_BACK: Final = timedelta(days=40)
WAITS_FOR_WORKER: Final = timedelta(hours=1)  # a job started by hand that nobody took up by then is forgotten
LATE_AFTER: Final = timedelta(minutes=2)
_BROKER: Final = {"socket_timeout": 3, "socket_connect_timeout": 3, "max_retries": 1, "interval_start": 0}
_DAYS: Final = ("Sundays", "Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays")

_LAST_RUNS: Final = """
SELECT run.* FROM unnest(%s::text[]) AS wanted(job) CROSS JOIN LATERAL (
  SELECT * FROM audit_jobrun WHERE job = wanted.job AND outcome <> 'skipped' AND id >= %s ORDER BY id DESC LIMIT 1
) AS run
"""


class UnknownJob(LookupError):
    """The schedule has no job of this name."""


class BrokerAway(Exception):
    """Nobody could be asked to start the job."""


@dataclass(frozen=True, slots=True)
class Job:
    """One entry of the schedule. ``about`` is what it does; ``last`` and ``next_at`` are of its runs, ``rhythm`` and
    ``late`` say how often it should run and whether it is overdue."""

    name: str
    about: str
    rhythm: str
    last: JobRun | None
    next_at: datetime
    late: bool


def jobs(now: datetime) -> list[Job]:
    """Every job, in the order of the schedule. One query."""
    app = _application()
    entries = app.conf.beat_schedule
    last_runs = _last_runs(entries, now)
    return [_job(app, name, entry, last_runs.get(name), now) for name, entry in entries.items()]


@transaction.atomic
def run_now(name: str, actor: Actor) -> None:
    """Ask a worker to run a job at once; its record will name the actor.

    Raises UnknownJob, and BrokerAway where nobody can be asked; then nothing is recorded.
    """
    app = _application()
    entry = app.conf.beat_schedule.get(name)
    if entry is None:
        raise UnknownJob(name)
    record(actor, "job.started", None, tenant=None, changes={"job": [None, name]})
    try:
        with app.connection_for_write(transport_options=_BROKER) as connection:
            app.send_task(
                entry["task"],
                kwargs={"started_by": actor.label},
                connection=connection,
                retry=False,
                expires=WAITS_FOR_WORKER.total_seconds(),
            )
    except (KombuError, OSError) as exc:
        raise BrokerAway(str(exc)) from exc


def _job(app: Celery, name: str, entry: dict[str, Any], last: JobRun | None, now: datetime) -> Job:
    schedule = maybe_schedule(entry["schedule"], app=app)
    remaining: timedelta = schedule.remaining_estimate(last.started_at if last else now)
    about = (app.tasks[entry["task"]].__doc__ or "").strip()
    next_at = (now + remaining + timedelta(milliseconds=500)).replace(microsecond=0)
    return Job(name, about, _rhythm(schedule), last, next_at, late=remaining < -LATE_AFTER)


def _rhythm(schedule: Any) -> str:
    if not isinstance(schedule, crontab):
        return f"every {_length(schedule.run_every)}"
    if len(schedule.minute) > 1 or len(schedule.hour) not in (1, 24):
        return "by the clock"
    (minute,) = schedule.minute
    if len(schedule.hour) > 1:
        return f"hourly at :{minute:02}"
    (hour,) = schedule.hour
    days = "daily" if len(schedule.day_of_week) == len(_DAYS) else ", ".join(_DAYS[day] for day in schedule.day_of_week)
    return f"{days} at {hour:02}:{minute:02}"


def _length(interval: timedelta) -> str:
    seconds = round(interval.total_seconds())
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _last_runs(names: Iterable[str], now: datetime) -> dict[str, JobRun]:
    runs = JobRun.objects.raw(_LAST_RUNS, [list(names), first_id(now - LOOKS_BACK)])
    return {run.job: run for run in runs}


@cache
def _application() -> Celery:
    """With all its tasks known: a process that only asks for work has not loaded them yet."""
    app = find_app(APPLICATION)
    app.loader.import_default_modules()
    return app
