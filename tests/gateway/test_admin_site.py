"""The operators' pages as a whole."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.core.handlers.wsgi import WSGIRequest
from django.db import connection, transaction
from django.db.models import Model as AnyModel
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pytest_django import DjangoDbBlocker

from audit.models import AuditCheckpoint, AuditEvent, JobRun
from audit.record import Actor
from billing.models import (
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertRule,
    Budget,
    BudgetPeriod,
    GatewayProcess,
    Plan,
    RateLimit,
    RollupMark,
    Subscription,
    UsageHour,
    UsageHourTag,
    UsageHourUser,
)
from gateway import urls  # noqa: F401 - registers the pages
from gateway.models import Alias, Deployment, Model, Provider, ProviderKey, RequestLog
from routing.models import (
    BankedConversation,
    Decision,
    DriftWatch,
    Experiment,
    Feedback,
    Label,
    PublishedScore,
    Ramp,
    WeightSnapshot,
)
from tenants.models import ApiToken, Membership, Project, Tenant, User
from tests.gateway.operators_world import (
    SIGNING_SECRET,
    VENDOR_SECRET,
    World,
    every_page,
    make_world,
    page,
)
from tests.ledger_rows import log_request

PROJECT_APPS = ("tenants", "gateway", "routing", "guardrails", "billing", "audit")
PARTS = {Deployment, BudgetPeriod, RollupMark}  # on the page of what they are a part of, or nobody's
THE_DATABASES = {AuditCheckpoint}  # rows that only a function of the database may write
PROJECT_MODELS = [
    model for app in PROJECT_APPS for model in apps.get_app_config(app).get_models() if model not in PARTS
]
PASSWORD = "correct horse battery"
INLINE_STYLE = re.compile(r"<[^>]+\sstyle=")
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>")
INLINE_HANDLER = re.compile(r"<[^>]+\son[a-z]+=")


@pytest.mark.parametrize("kept", PROJECT_MODELS, ids=lambda kept: kept.__name__)
def test_every_model_of_the_project_has_a_page(kept: type[AnyModel]) -> None:
    assert admin.site.is_registered(kept)


def test_the_cast_has_a_row_of_every_model(world: World) -> None:
    assert set(world) == set(PROJECT_MODELS) - THE_DATABASES


@dataclass(frozen=True, slots=True)
class Visited:
    """What an operator saw of a page."""

    status: int
    policy: str
    html: str


@dataclass(frozen=True, slots=True)
class Visit:
    """Every page an operator can open, by its address, and what none of them may show."""

    pages: dict[str, Visited]
    secrets: list[str]


@pytest.fixture(scope="module")
def visit(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Visit:
    """Of a world that is gone when the tests begin. They ask for the database as well, or pytest would run them apart
    from the others, and this once more."""
    with django_db_blocker.unblock(), transaction.atomic():
        visited = _visit()
        transaction.set_rollback(True)
    return visited


def _visit() -> Visit:
    actor, browser = Actor("tests"), Client()
    operator = User.objects.create_superuser("olga@example.com", PASSWORD)
    tenant = Tenant.objects.create(slug="acme")
    project = Project.objects.create(tenant=tenant, slug="web")
    token, token_text = ApiToken.issue(tenant=tenant, project=project, name="ci", actor=actor)
    provider = Provider.objects.create(
        tenant=tenant, name="lab", kind="openai-compatible", base_url="https://lab.example/v1"
    )
    model = Model.objects.create(tenant=tenant, name="small", provider=provider, vendor_model="small-1")
    world = make_world(token, model, operator, actor)
    browser.force_login(operator)
    pages = {}
    for url in every_page(world, _request_of(browser)):
        answer = browser.get(url)
        pages[url] = Visited(answer.status_code, answer["content-security-policy"], answer.content.decode())
    secrets = [VENDOR_SECRET, SIGNING_SECRET, token_text, operator.password, "canary-ciphertext"]
    secrets += [bytes(world[ProviderKey].ciphertext).hex(), bytes(world[AlertChannel].secret_ciphertext).hex()]
    return Visit(pages, secrets)


def _request_of(browser: Client) -> WSGIRequest:
    return browser.get(reverse("admin:index")).wsgi_request


def test_every_page_answers_an_operator(visit: Visit, db: None) -> None:
    assert visit.pages
    for url, visited in visit.pages.items():
        assert visited.status == 200, url


def test_every_page_sends_strangers_to_sign_in(world: World, browser: Client) -> None:
    for url in every_page(world, _request_of(browser)):
        answer = Client().get(url)
        assert (answer.status_code, answer["location"].split("?")[0]) == (302, "/admin/login/"), url


@pytest.mark.parametrize("flags", [{}, {"is_staff": True}, {"is_superuser": True}])
def test_only_staff_superusers_get_in(client: Client, db: None, flags: dict[str, bool]) -> None:
    client.force_login(User.objects.create_user("bob@example.com", PASSWORD, **flags))
    assert client.get(reverse("admin:index")).status_code == 302


def test_what_limits_refused_stands_apart_from_what_failed(token: ApiToken, browser: Client) -> None:
    now = datetime.now(UTC)
    for status, code in ((402, "budget_exceeded"), (429, "rate_limit_exceeded"), (502, "provider_error")):
        log_request(token, at=now, status=status, error_code=code)
    start = browser.get(reverse("admin:index")).content.decode()
    assert "budget_exceeded" not in start
    assert "502 provider_error" in start
    assert re.search(r'Refused</span><span class="tile-value">2</span>', start)
    shown = {
        outcome: browser.get(page(RequestLog, "changelist"), {"outcome": outcome}).context["cl"].result_count
        for outcome in ("refused", "failed")
    }
    assert shown == {"refused": 2, "failed": 1}


def test_history_leads_to_the_audit_trail_of_the_row(world: World, browser: Client) -> None:
    for model, row in world.items():
        answer = browser.get(page(model, "history", row.pk), follow=True)
        assert answer.status_code == 200
        assert answer.request["QUERY_STRING"] == f"object_id={row.pk}"


def test_every_page_has_a_strict_policy_and_keeps_it(visit: Visit, client: Client, db: None) -> None:
    login = client.get(reverse("admin:login"))
    pages = visit.pages | {"login": Visited(200, login["content-security-policy"], login.content.decode())}
    for url, visited in pages.items():
        assert "unsafe" not in visited.policy
        assert "default-src 'none'" in visited.policy
        for forbidden in (INLINE_STYLE, INLINE_SCRIPT, INLINE_HANDLER):
            assert not forbidden.search(visited.html), (url, forbidden.search(visited.html))
        assert "<style" not in visited.html, url


def test_no_page_holds_a_secret(visit: Visit, db: None) -> None:
    for url, visited in visit.pages.items():
        assert not [secret for secret in visit.secrets if secret in visited.html], url


def test_names_are_escaped_wherever_they_are_shown(world: World, browser: Client) -> None:
    evil = "<script>alert(1)</script>"
    RequestLog.objects.update(requested_model=evil, error_code=evil, end_user=evil, tags=[evil], status=500)
    Provider.objects.update(check_message=evil, check_status="failing")
    GatewayProcess.objects.update(label=evil)
    Budget.objects.update(name=evil)
    BudgetPeriod.objects.update(subject=evil)
    AlertChannel.objects.update(name=evil, address=f"https://{evil}")
    AlertRule.objects.update(name=evil, model_name=evil)
    Alert.objects.update(message=evil, facts={evil: evil})
    AlertDelivery.objects.update(last_error=evil, status="failed")
    Plan.objects.update(name=evil, features=[evil])
    JobRun.objects.update(job=evil, error=evil, facts={evil: evil})
    Decision.objects.update(
        reason=evil, removed={evil: [evil, evil]}, end_user=evil, qualified=[evil], weighed=bytes(24)
    )
    Label.objects.update(model_name=evil, rater_name=evil, left_out=evil)
    Feedback.objects.update(rater=evil, comment=evil)
    Experiment.objects.update(name=evil, reason=evil, arms=[evil, "large"])
    Ramp.objects.update(reason=evil, to_model=evil, evidence={"steps": [{evil: evil}]})
    WeightSnapshot.objects.update(by_model={evil: {"mean": 0.5}})
    PublishedScore.objects.update(source=evil)
    DriftWatch.objects.update(model_name=evil, reason=evil, state={evil: evil})
    BankedConversation.objects.update(model_name=evil)
    UsageHourTag.objects.update(tag=evil)
    UsageHourUser.objects.update(end_user=evil)
    for url in every_page(world, _request_of(browser)):
        assert evil not in browser.get(url).content.decode(), url


def test_a_get_changes_nothing(world: World, browser: Client) -> None:
    before = AuditEvent.objects.count()
    for model, row in world.items():
        for name in getattr(admin.site.get_model_admin(model), "object_actions", ()):
            assert browser.get(page(model, "do", row.pk, name)).status_code == 405
    assert browser.get(reverse("admin:audit_auditevent_verify")).status_code == 405
    assert AuditEvent.objects.count() == before


def test_row_buttons_demand_a_csrf_token(world: World, operator: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert strict.post(page(Provider, "do", world[Provider].pk, "disable")).status_code == 403
    assert Provider.objects.get().enabled


def test_only_offered_actions_can_be_done_to_a_row(world: World, browser: Client) -> None:
    assert browser.post(page(Provider, "do", world[Provider].pk, "delete_selected")).status_code == 404


@pytest.mark.parametrize(
    ("listed", "make"),
    [
        (Provider, lambda world, n: Provider.objects.create(tenant=world[Provider].tenant, name=f"p{n}", kind="openai")),
        (Model, lambda world, n: Model.objects.create(
            tenant=world[Model].tenant, name=f"m{n}", provider=world[Provider], vendor_model="x")),
        (RequestLog, lambda world, n: log_request(world[ApiToken])),
        (ApiToken, lambda world, n: ApiToken.issue(
            tenant=world[ApiToken].tenant, project=world[ApiToken].project, name=f"t{n}", actor=Actor("tests"))),
        (User, lambda world, n: Membership.objects.create(
            tenant=world[ApiToken].tenant, user=User.objects.create_user(f"u{n}@example.com"), role="viewer")),
        (Alias, lambda world, n: Alias.objects.create(
            tenant=world[Alias].tenant, name=f"a{n}", model_name="small")),
        (Budget, lambda world, n: BudgetPeriod.objects.create(
            tenant=world[Budget].tenant, starts_at=datetime(2026, 1, 1, tzinfo=UTC), budget=Budget.objects.create(
                tenant=world[Budget].tenant, name=f"b{n}", scope="token", token=world[ApiToken], metric="usd",
                cap=n, period="total"))),
        (RateLimit, lambda world, n: RateLimit.objects.create(
            tenant=world[Budget].tenant, scope="user", subject=f"u{n}", concurrent=1)),
        (Subscription, lambda world, n: Subscription.objects.create(
            tenant=Tenant.objects.create(slug=f"t{n}"), plan=world[Plan])),
        (AlertRule, lambda world, n: AlertRule.objects.create(
            tenant=world[Budget].tenant, name=f"r{n}", kind="budget", budget=world[Budget]).channels.add(
            world[AlertChannel])),
        (Alert, lambda world, n: Alert.objects.create(
            tenant=world[Budget].tenant, rule=world[AlertRule], kind="budget", occasion=str(n), message="m",
            opened_at=datetime.now(UTC))),
        (AlertDelivery, lambda world, n: AlertDelivery.objects.create(
            tenant=world[Budget].tenant, channel=world[AlertChannel], alert=Alert.objects.create(
                kind="budget", occasion=str(n), message="m", opened_at=datetime.now(UTC)))),
        (UsageHour, lambda world, n: UsageHour.objects.create(
            hour=datetime.now(UTC), tenant_id=Tenant.objects.create(slug=f"t{n}").pk, vendor_model="x",
            purpose="serve")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_list_of_fifty_takes_as_many_queries_as_a_list_of_one(
    world: World, browser: Client, listed: type[AnyModel], make: Callable[[World, int], Any]
) -> None:
    url = page(listed, "changelist")
    browser.get(url)
    with CaptureQueriesContext(connection) as few:
        browser.get(url)
    for number in range(49):
        make(world, number)
    with CaptureQueriesContext(connection) as many:
        assert browser.get(url).status_code == 200
    assert len(many) == len(few)
    assert len(many) <= 15


def test_the_start_page_shows_how_the_day_goes(world: World, browser: Client) -> None:
    log_request(world[ApiToken], status=502, error_code="upstream_unavailable")
    html = browser.get(reverse("admin:index")).content.decode()
    for shown in ("50.0%", "$0.0000", "upstream_unavailable", "chart-requests", "Slowest models"):
        assert shown in html
    assert "The first request" not in html


def test_an_empty_installation_says_how_to_make_the_first_request(browser: Client) -> None:
    html = browser.get(reverse("admin:index")).content.decode()
    assert "The first request" in html
    assert "/v1/chat/completions" in html


def test_suggestions_name_the_tenant(world: World, browser: Client) -> None:
    query = {"app_label": "tenants", "model_name": "apitoken", "field_name": "project", "term": "web"}
    answer = browser.get(reverse("admin:autocomplete"), query)
    assert [found["text"] for found in answer.json()["results"]] == ["acme / web"]


def test_background_runs_are_filtered_by_job_and_outcome(browser: Client) -> None:
    now = datetime.now(UTC)
    for job in ("rollup", "reap"):
        for outcome in ("done", "failed"):
            JobRun.objects.create(job=job, started_at=now, ended_at=now, outcome=outcome, facts={"hours": 3}, error="x")
    answer = browser.get(page(JobRun, "changelist"), {"job": "reap", "outcome__exact": "failed"})
    assert [(run.job, run.outcome) for run in answer.context["cl"].result_list] == [("reap", "failed")]
    assert "hours: 3" in answer.content.decode()


@pytest.mark.parametrize("written", ["add", "change", "delete"])
def test_nobody_writes_background_runs_by_hand(browser: Client, written: str) -> None:
    run = JobRun.objects.create(job="rollup", started_at=datetime.now(UTC))
    args = [] if written == "add" else [run.pk]
    assert browser.post(page(JobRun, written, *args), {"post": "yes"}).status_code == 403
