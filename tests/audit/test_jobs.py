"""Background runs: one at a time, each on record."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from django.db import DataError, connection, transaction

from audit.jobs import AlreadyRunning, job_run, run_job
from audit.models import JobRun
from tests.provision import Database


def elsewhere(work: Callable[[], None]) -> None:
    """Run ``work`` as another worker would: on a connection of its own."""

    def call() -> None:
        try:
            work()
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=1) as worker:
        worker.submit(call).result(30)


def test_a_run_says_what_it_saw(db: None) -> None:
    with job_run("count", "tests") as run:
        run.facts["rows"] = 3
        assert JobRun.objects.get().outcome == "running"
    row = JobRun.objects.get()
    assert (row.job, row.outcome, row.started_by, row.facts) == ("count", "done", "tests", {"rows": 3})
    assert row.ended_at >= row.started_at


def test_a_failed_run_says_why_and_is_not_swallowed(db: None) -> None:
    def count() -> None:
        with job_run("count") as run:
            run.facts["rows"] = 1
            raise ValueError("no such month")

    with pytest.raises(ValueError, match="no such month"):
        count()
    row = JobRun.objects.get()
    assert (row.outcome, row.error, row.facts) == ("failed", "ValueError: no such month", {"rows": 1})


def test_a_failure_of_the_database_is_recorded_too(real_commits: Database) -> None:
    with pytest.raises(DataError), job_run("divide"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")
    assert JobRun.objects.get().error.startswith("DataError: division by zero")


def test_the_second_at_once_is_skipped(real_commits: Database) -> None:
    done: list[str] = []

    def second() -> None:
        with pytest.raises(AlreadyRunning), job_run("count", "second"):
            done.append("second")

    with job_run("count", "first"):
        elsewhere(second)
        done.append("first")
    assert done == ["first"]
    assert set(JobRun.objects.values_list("started_by", "outcome")) == {("first", "done"), ("second", "skipped")}


def test_other_jobs_do_not_wait(real_commits: Database) -> None:
    with job_run("count"):
        elsewhere(lambda: run_job("measure", dict) and None)
    assert set(JobRun.objects.values_list("job", "outcome")) == {("count", "done"), ("measure", "done")}


def test_the_lock_is_given_back_after_success_and_failure(real_commits: Database) -> None:
    with job_run("count"):
        pass
    with pytest.raises(KeyError), job_run("count"):
        raise KeyError
    elsewhere(lambda: run_job("count", lambda: {"rows": 1}) and None)
    assert JobRun.objects.latest("id").facts == {"rows": 1}


def test_what_a_killed_process_left_open_is_closed_by_the_next_run(db: None) -> None:
    JobRun.objects.create(job="count", started_by="killed", started_at=datetime.now(UTC))
    run_job("count", dict)
    assert set(JobRun.objects.values_list("started_by", "outcome", "error")) == {
        ("killed", "failed", "The process ended before the job did."),
        ("schedule", "done", ""),
    }


def test_a_skipped_job_is_no_failure_for_who_started_it(real_commits: Database) -> None:
    with job_run("count"):
        elsewhere(lambda: run_job("count", dict) and None)
    assert JobRun.objects.filter(outcome="skipped").count() == 1
