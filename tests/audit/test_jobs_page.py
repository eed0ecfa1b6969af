"""The operators' page of jobs: what is due, how it went, and a button that starts one."""

import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from redis import Redis

from audit import schedule
from audit.jobs import run_job
from audit.models import AuditEvent, JobRun
from audit.record import Actor, record
from gateway.admin_columns import NOTHING
from gateway.celery import app
from tests.redis_server import RedisServer

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
RUNS = reverse("admin:audit_jobrun_changelist")
RUN_NOW = reverse("admin:audit_jobrun_run")
ENTRIES = dict(app.conf.beat_schedule)


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A Redis of this test's own takes the work."""
    before = app.conf.broker_write_url
    app.conf.broker_write_url = f"redis+socket://{redis_server.socket_path}"
    yield redis_server
    app.conf.broker_write_url = before


def a_run(job: str, **values: Any) -> JobRun:
    facts = {"started_at": NOW, "ended_at": NOW + timedelta(seconds=2), "outcome": "done", "started_by": "schedule"}
    return JobRun.objects.create(job=job, **facts | values)


def job(name: str, now: datetime = NOW) -> schedule.Job:
    return next(job for job in schedule.jobs(now) if job.name == name)


def shown(browser: Client, **query: Any) -> str:
    return browser.get(RUNS, query).content.decode()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_job_can_be_started_by_somebody_and_says_what_it_does(name: str) -> None:
    app.loader.import_default_modules()
    task = app.tasks[ENTRIES[name]["task"]]
    assert [*inspect.signature(task.run).parameters] == ["started_by"]
    assert inspect.signature(task.run).parameters["started_by"].default == "schedule"
    assert (task.__doc__ or "").strip()


@pytest.mark.parametrize(
    "name", ["reap", "roll_up", "retention", "budget_alerts", "deliver_alerts", "alert_rules", "make_partitions"]
)
def test_a_run_bears_the_name_of_its_entry_and_of_who_started_it(db: None, name: str) -> None:
    app.loader.import_default_modules()
    app.tasks[ENTRIES[name]["task"]]("olga@example.com")
    assert list(JobRun.objects.values_list("job", "started_by")) == [(name, "olga@example.com")]


def test_the_page_shows_every_job_with_its_last_run(browser: Client) -> None:
    a_run("reap", facts={"settled": 7}, started_by="olga@example.com", started_at=datetime.now(UTC))
    html = shown(browser)
    for name in ENTRIES:
        assert f'value="{name}"' in html
    for expected in ("settled: 7", "olga@example.com", "Close what gateway processes that died have left open."):
        assert expected in html


def test_the_newest_run_counts_and_one_that_was_skipped_does_not(db: None) -> None:
    a_run("reap", outcome="failed")
    newest = a_run("reap")
    a_run("reap", outcome="skipped")
    assert job("reap").last == newest
    assert job("roll_up").last is None


def test_an_interval_is_due_again_after_its_length(db: None) -> None:
    now = datetime.now(UTC)
    a_run("roll_up", started_at=now - timedelta(seconds=100))
    due = job("roll_up", now)
    assert abs(due.next_at - (now + timedelta(seconds=200))) < timedelta(seconds=5)
    assert (due.rhythm, due.late) == ("every 5 min", False)


def test_a_job_by_the_clock_is_due_at_its_next_time(db: None) -> None:
    now = datetime.now(UTC)
    a_run("retention", started_at=now)
    due = job("retention", now)
    assert (due.next_at.hour, due.next_at.minute) == (3, 47)
    assert now < due.next_at <= now + timedelta(days=1)
    assert due.rhythm == "daily at 03:47"


def test_a_job_that_did_not_run_when_it_should_is_overdue(browser: Client) -> None:
    a_run("roll_up", started_at=datetime.now(UTC) - timedelta(hours=2))
    assert job("roll_up", datetime.now(UTC)).late
    assert "overdue" in shown(browser)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (30.0, "every 30 s"),
        (timedelta(hours=6), "every 6 h"),
        (crontab(minute="5"), "hourly at :05"),
        (crontab(minute="10", hour="4", day_of_week="1"), "Mondays at 04:10"),
        (crontab(minute="*/7"), "by the clock"),
    ],
)  # fmt: skip
def test_the_rhythm_is_told_in_words(entry: Any, told: str, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.conf.beat_schedule, "reap", {"task": "billing.tasks.reap", "schedule": entry})
    assert job("reap").rhythm == told


def test_runs_that_were_asked_for_stand_alone(browser: Client) -> None:
    a_run("reap")
    assert "Run now" not in shown(browser, job="reap")


def test_the_page_takes_as_many_queries_with_runs_as_without(browser: Client) -> None:
    shown(browser)
    with CaptureQueriesContext(connection) as few:
        shown(browser)
    for number in range(60):
        a_run([*ENTRIES][number % len(ENTRIES)])
    with CaptureQueriesContext(connection) as many:
        shown(browser)
    assert len(many) == len(few) <= 10


def test_a_job_that_is_run_now_reaches_a_worker_and_the_trail(browser: Client, broker: RedisServer) -> None:
    answer = browser.post(RUN_NOW, {"job": "roll_up"}, follow=True)
    assert "A worker was asked to run roll_up" in answer.content.decode()
    (message,) = Redis(unix_socket_path=broker.socket_path).lrange("celery", 0, -1)
    headers = json.loads(message)["headers"]
    assert headers["task"] == "billing.tasks.roll_up_usage"
    assert headers["kwargsrepr"] == "{'started_by': 'olga@example.com'}"
    event = AuditEvent.objects.get(action="job.started")
    assert (event.actor_label, event.changes, event.tenant) == ("olga@example.com", {"job": [None, "roll_up"]}, None)


@pytest.mark.parametrize("harm", ["stop", "hang"])
def test_without_a_broker_nothing_is_started_or_recorded(browser: Client, broker: RedisServer, harm: str) -> None:
    getattr(broker, harm)()
    answer = browser.post(RUN_NOW, {"job": "roll_up"}, follow=True)
    assert "nothing was started" in answer.content.decode()
    assert not AuditEvent.objects.filter(action="job.started").exists()


def test_only_jobs_of_the_schedule_can_be_started(browser: Client) -> None:
    assert browser.post(RUN_NOW, {"job": "rm"}).status_code == 404
    assert browser.get(RUN_NOW).status_code == 405
    assert not AuditEvent.objects.filter(action="job.started").exists()


def test_strangers_and_forged_forms_start_nothing(client: Client, operator: Any) -> None:
    assert client.post(RUN_NOW, {"job": "reap"}).status_code == 302
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert strict.post(RUN_NOW, {"job": "reap"}).status_code == 403
    assert not AuditEvent.objects.filter(action="job.started").exists()


def test_the_schedule_is_the_applications_own() -> None:
    assert isinstance(app, Celery)
    assert schedule._application() is app


def test_an_act_with_a_figure_shows_it(browser: Client, operator: Any) -> None:
    with transaction.atomic():
        event = record(Actor("tests"), "published_scores.imported", None, tenant=None, changes={"added": 55})
    page = browser.get(reverse("admin:audit_auditevent_change", args=[event.pk]))
    assert f"<tr><th>added</th><td>{NOTHING}</td><td>55</td></tr>" in page.content.decode()


def test_a_run_under_way_is_shown_as_such(browser: Client) -> None:
    run_job("reap", lambda: {"settled": 1}, "tests")
    JobRun.objects.update(outcome="running", ended_at=None)
    assert "badge-warn" in shown(browser)
