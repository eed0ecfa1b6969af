"""The operators' pages of how tenants want to be routed, and of what was found."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.db.models import Model as AnyModel
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import AuditEvent
from gateway import urls  # noqa: F401 - registers the pages
from gateway.models import Model
from gateway.rows import new_id
from routing.models import (
    BankedConversation,
    Decision,
    DriftWatch,
    Experiment,
    ExperimentEvidence,
    Feedback,
    JudgeSample,
    Label,
    PublishedScore,
    Ramp,
    ReplayVerdict,
    RouterState,
    RoutingSettings,
    StrategyChoice,
    WeightSnapshot,
)
from tenants.models import ApiToken, Project, Tenant
from tests.gateway.test_admin import form_values, page
from tests.routing.test_admin_router import a_decision, a_label, keep, taught

NOW = datetime(2026, 3, 4, tzinfo=UTC)
FINDINGS = (
    Decision, Label, Feedback, JudgeSample, RouterState, WeightSnapshot, ExperimentEvidence, BankedConversation,
    ReplayVerdict, DriftWatch,
)  # fmt: skip


@pytest.fixture
def settings_row(tenant: Tenant) -> RoutingSettings:
    return RoutingSettings.objects.create(tenant=tenant, rules=[{"rule": "cheapest", "keep": 4}])


@pytest.fixture
def rows(token: ApiToken, settings_row: RoutingSettings) -> dict[type, Any]:
    """One row of every kind of this app, by its class."""
    tenant = token.tenant
    made = [settings_row, a_decision(token), a_label(tenant, "small", 0.5), keep(tenant, taught(1, small=0.5))]
    made += [make(token, 0) for make in MAKERS.values()]
    return {type(row): row for row in made}


def an_experiment(token: ApiToken, n: int) -> Experiment:
    return Experiment.objects.create(tenant=token.tenant, name=f"e{n}", arms=["small", "large"], status="ended")


def a_verdict(token: ApiToken, n: int) -> ReplayVerdict:
    return ReplayVerdict.objects.create(
        tenant=token.tenant, conversation=a_conversation(token, n), week=date(2026, 3, 2), model_name="small",
        control=False, value=0.5,
    )  # fmt: skip


def a_conversation(token: ApiToken, n: int) -> BankedConversation:
    return BankedConversation.objects.create(
        tenant=token.tenant, project_id=token.project_id, request_id=new_id(), ciphertext=b"canary-ciphertext",
        master_key_number=1, task="qa",
        complexity="simple", model_name="small", score=0.5,
    )  # fmt: skip


MAKERS: dict[type[AnyModel], Callable[[ApiToken, int], Any]] = {
    StrategyChoice: lambda token, n: StrategyChoice.objects.create(
        tenant=token.tenant, strategy="cost", project=Project.objects.create(tenant=token.tenant, slug=f"p{n}")
    ),
    PublishedScore: lambda token, n: PublishedScore.objects.create(
        tenant=token.tenant, vendor_model_pattern=f"gpt-{n}*", quality=0.8, source="tests"
    ),
    Feedback: lambda token, n: Feedback.objects.create(
        tenant=token.tenant, request_id=new_id(), rater="ann", value=0.5
    ),
    JudgeSample: lambda token, n: JudgeSample.objects.create(
        request_id=new_id(), tenant=token.tenant, ciphertext=b"canary-ciphertext", master_key_number=1, due_at=NOW
    ),
    Experiment: an_experiment,
    ExperimentEvidence: lambda token, n: ExperimentEvidence.objects.create(
        tenant=token.tenant, experiment=an_experiment(token, 1000 + n)
    ),
    Ramp: lambda token, n: Ramp.objects.create(tenant=token.tenant, to_model="small", status="ended"),
    BankedConversation: a_conversation,
    ReplayVerdict: a_verdict,
    DriftWatch: lambda token, n: DriftWatch.objects.create(
        tenant=token.tenant, model_name=f"m{n}", state={"wealth": 1.25, "seen": 12}, last_week=date(2026, 3, 2)
    ),
    WeightSnapshot: lambda token, n: WeightSnapshot.objects.create(
        tenant=token.tenant, day=date(2026, 1, 1) + timedelta(days=n), engine="hier", labels=3,
        by_model={"small": {"mean": 0.5, "sd": 0.1}},
    ),
}  # fmt: skip
MORE: dict[type[AnyModel], Callable[[ApiToken, int], Any]] = {
    **MAKERS,
    Decision: lambda token, n: a_decision(token),
    Label: lambda token, n: a_label(token.tenant, "small", 0.5),
    RouterState: lambda token, n: RouterState.objects.create(tenant=Tenant.objects.create(slug=f"t{n}"), engine="ema"),
    RoutingSettings: lambda token, n: RoutingSettings.objects.create(tenant=Tenant.objects.create(slug=f"t{n}")),
}


def save(browser: Client, row: Any, **changes: Any) -> Any:
    url = page(type(row), "change", row.pk)
    return browser.post(url, form_values(browser.get(url)) | changes)


def errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return dict(answer.context["adminform"].form.errors)


def event(action: str) -> AuditEvent:
    return AuditEvent.objects.get(action=action)


# --------------------------------------------------------------------------- every page


def test_every_page_answers_an_operator_and_keeps_what_is_sealed(browser: Client, rows: dict[type, Any]) -> None:
    assert set(rows) == {*MORE}
    for model, row in rows.items():
        for url in (page(model, "changelist"), page(model, "change", row.pk)):
            answer = browser.get(url)
            assert answer.status_code == 200, url
            assert "canary" not in answer.content.decode()
            assert " style=" not in answer.content.decode()


@pytest.mark.parametrize("model", MORE, ids=lambda model: model.__name__)
def test_a_list_of_fifty_takes_as_many_queries_as_a_list_of_one(
    browser: Client, rows: dict[type, Any], token: ApiToken, model: type[AnyModel]
) -> None:
    url = page(model, "changelist")
    browser.get(url)
    with CaptureQueriesContext(connection) as few:
        browser.get(url)
    for number in range(1, 50):
        MORE[model](token, number)
    with CaptureQueriesContext(connection) as many:
        assert browser.get(url).status_code == 200
    assert len(many) == len(few) <= 10


@pytest.mark.parametrize("model", FINDINGS, ids=lambda model: model.__name__)
def test_nobody_writes_findings_by_hand(browser: Client, rows: dict[type, Any], model: type[AnyModel]) -> None:
    for name, args in (("add", []), ("change", [rows[model].pk]), ("delete", [rows[model].pk])):
        assert browser.post(page(model, name, *args), {"post": "yes"}).status_code == 403


def test_saving_unchanged_leaves_no_trace(browser: Client, rows: dict[type, Any]) -> None:
    before = AuditEvent.objects.count()
    for model in (RoutingSettings, StrategyChoice, PublishedScore):
        assert save(browser, rows[model]).status_code == 302
    assert AuditEvent.objects.count() == before


def test_the_state_of_a_router_is_not_read_for_its_list(browser: Client, rows: dict[type, Any]) -> None:
    with CaptureQueriesContext(connection) as queries:
        browser.get(page(RouterState, "changelist"))
    assert not [query for query in queries if '"routing_routerstate"."state"' in query["sql"]]


def test_every_model_of_the_app_is_an_operators(db: None) -> None:
    assert all(admin.site.is_registered(model) for model in MORE)


# --------------------------------------------------------------------------- wishes


def test_rules_are_laid_out_and_saved(browser: Client, settings_row: RoutingSettings) -> None:
    html = browser.get(page(RoutingSettings, "change", settings_row.pk)).content.decode()
    assert "&quot;keep&quot;: 4" in html
    rules = [{"rule": "cheapest", "keep": 2}, {"rule": "health", "least_success_rate": 0.9}]
    assert save(browser, settings_row, rules=json.dumps(rules), strategy="cost").status_code == 302
    settings_row.refresh_from_db()
    assert (settings_row.rules, settings_row.strategy) == (rules, "cost")
    assert event("routing.changed").changes == {
        "rules": [[{"rule": "cheapest", "keep": 4}], [rules[0], {"rule": "health", "least_success_rate": "0.9"}]],
        "strategy": ["balanced", "cost"],
    }


def test_no_rules_are_an_empty_list(browser: Client, settings_row: RoutingSettings) -> None:
    assert save(browser, settings_row, rules="").status_code == 302
    settings_row.refresh_from_db()
    assert settings_row.rules == []


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ('[{"rule": "cheapst"}]', "did you mean"),
        ('[{"rule": "cheapest", "keep": "many"}]', "rule 1 (cheapest)"),
        ('{"rule": "cheapest"}', "rules must be a list"),
        ("[{]", "Enter a valid JSON"),
        ("null", ""),
    ],
)
def test_rules_nobody_can_follow_are_refused_with_the_reason(
    browser: Client, settings_row: RoutingSettings, rules: str, why: str
) -> None:
    answer = save(browser, settings_row, rules=rules)
    if not why:
        assert answer.status_code == 302
        return
    assert why in " ".join(errors(answer)["rules"])
    settings_row.refresh_from_db()
    assert settings_row.rules == [{"rule": "cheapest", "keep": 4}]


def test_a_judge_must_be_a_model_of_the_tenant(browser: Client, settings_row: RoutingSettings, model: Model) -> None:
    assert "acme has no model big." in errors(save(browser, settings_row, judge_model="big"))["judge_model"]
    assert save(browser, settings_row, judge_model="small").status_code == 302


def test_a_rule_that_asks_a_model_must_name_one_of_the_tenant(
    browser: Client, settings_row: RoutingSettings, model: Model
) -> None:
    refused = save(browser, settings_row, rules='[{"rule": "llm", "model": "big"}]')
    assert "acme has no model big." in errors(refused)["rules"]
    assert save(browser, settings_row, rules='[{"rule": "llm", "model": "small"}]').status_code == 302


def test_a_pattern_that_means_no_model_is_kept_and_told(
    browser: Client, settings_row: RoutingSettings, model: Model
) -> None:
    rules = '[{"rule": "models", "allow": ["sm*", "*/small"], "deny": ["bi*"]}]'
    assert save(browser, settings_row, rules=rules).status_code == 302
    page = browser.get(reverse("admin:routing_routingsettings_changelist")).content.decode()
    assert "Rule 1 (models): no model is called bi*." in page
    assert "called sm*" not in page
    assert "called */small" not in page


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("usd_per_1000_requests", "0", "This must be more than 0."),
        ("ema_alpha", "0", "This must be more than 0: with 0 later ratings would count for nothing."),
        ("quality_floor", "-1", "Ensure this value is greater than or equal to 0.0."),
    ],
)
def test_a_figure_that_means_nothing_is_refused(
    browser: Client, settings_row: RoutingSettings, field: str, value: str, why: str
) -> None:
    assert errors(save(browser, settings_row, **{field: value}))[field] == [why]


def test_engines_are_chosen_by_the_names_that_files_have(browser: Client, settings_row: RoutingSettings) -> None:
    html = browser.get(page(RoutingSettings, "change", settings_row.pk)).content.decode()
    assert '<option value="hier" selected>hier: learns by posterior</option>' in html


def test_the_watch_of_the_control_is_called_so(browser: Client, tenant: Tenant) -> None:
    DriftWatch.objects.create(tenant=tenant, model_name="")
    html = browser.get(reverse("admin:routing_driftwatch_changelist")).content.decode()
    assert "the control</a>" in html


def test_a_tenant_without_wishes_gets_them_once(browser: Client, tenant: Tenant) -> None:
    form = browser.get(page(RoutingSettings, "add"), {"tenant": tenant.pk})
    values = form_values(form) | {"tenant": tenant.pk, "auto_ab": "on"}
    assert browser.post(page(RoutingSettings, "add"), values).status_code == 302
    assert RoutingSettings.objects.get().auto_ab
    assert event("routing.created").tenant == tenant
    assert "tenant" in errors(browser.post(page(RoutingSettings, "add"), values))


def test_wishes_lead_to_the_router(browser: Client, settings_row: RoutingSettings) -> None:
    router = reverse("admin:routing_router", args=[settings_row.tenant_id])
    for url in (page(RoutingSettings, "change", settings_row.pk), page(RoutingSettings, "changelist")):
        assert f'href="{router}"' in browser.get(url).content.decode()


def test_a_strategy_is_a_projects_or_a_tokens_of_the_same_tenant(
    browser: Client, token: ApiToken, other_tenant: Tenant
) -> None:
    add = page(StrategyChoice, "add")
    both = {"tenant": token.tenant_id, "project": token.project_id, "token": token.pk, "strategy": "cost"}
    assert "not both" in str(errors(browser.post(add, both)))
    foreign = {"tenant": other_tenant.pk, "project": token.project_id, "strategy": "cost"}
    assert "belongs to another tenant" in str(errors(browser.post(add, foreign)))
    right = {"tenant": token.tenant_id, "token": token.pk, "strategy": "cost"}
    assert browser.post(add, right).status_code == 302
    assert errors(browser.post(add, right))
    assert event("strategy.created").tenant == token.tenant
    row = StrategyChoice.objects.get()
    assert browser.post(page(StrategyChoice, "delete", row.pk), {"post": "yes"}).status_code == 302
    assert event("strategy.removed").changes["strategy"] == ["cost", None]


def test_a_published_score_says_where_it_is_from(browser: Client, db: None) -> None:
    add = page(PublishedScore, "add")
    values = {"vendor_model_pattern": "gpt-4o*", "quality": "0.88", "source": "its maker, May 2024"}
    assert browser.post(add, values).status_code == 302
    created = event("published_score.created")
    assert (created.tenant, created.changes["quality"]) == (None, [None, "0.88"])
    assert errors(browser.post(add, values))
    assert errors(browser.post(add, values | {"vendor_model_pattern": "x", "quality": "1.5"}))["quality"]
    assert errors(browser.post(add, {"vendor_model_pattern": "y", "quality": "0.5"}))["source"]
