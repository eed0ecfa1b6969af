"""The operators' pages of tenants, projects, people and API tokens."""

import html
import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import AuditEvent
from audit.record import Actor
from billing.models import Adjustment, Budget, RateLimit
from gateway.models import Model
from tenants.models import ApiToken, Membership, Project, Tenant, User
from tests.ledger_rows import log_request, open_attempt, settle

OLD_PASSWORD = "correct horse battery"
NEW_PASSWORD = "another horse battery"


def url(model: str, page: str, *args: Any) -> str:
    return reverse(f"admin:tenants_{model}_{page}", args=args)


def token_values(of: Project, **changes: Any) -> dict[str, Any]:
    return {
        "project": of.pk, "name": "laptop", "scopes": ["inference"], "allowed_models": "gpt-*\nsmall",
        "requests_per_minute": "0", "allowed_cidrs": "203.0.113.7/24",
    } | changes  # fmt: skip


def tenant_values(**changes: Any) -> dict[str, Any]:
    """The form of a new tenant; every inline sends its management data."""
    inlines = {
        f"{prefix}-{name}": "0"
        for prefix in ("projects", "memberships", "tokens")
        for name in ("TOTAL_FORMS", "INITIAL_FORMS", "MIN_NUM_FORMS", "MAX_NUM_FORMS")
    }
    return {"slug": "globex", "name": "Globex", "enabled": "on", "time_zone": "Europe/Berlin"} | inlines | changes


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action))


# --------------------------------------------------------------------------- tokens


def test_a_token_is_shown_once_and_never_again(browser: Client, project: Project) -> None:
    answer = browser.post(url("apitoken", "add"), token_values(project))
    token = ApiToken.objects.get()
    [(_, text)] = answer.context["issued"]
    assert text in answer.content.decode()
    assert "no-store" in answer["cache-control"]
    for page in (url("apitoken", "change", token.pk), url("apitoken", "changelist")):
        assert text not in browser.get(page).content.decode()
    assert text not in str(list(AuditEvent.objects.values()))


def test_a_token_belongs_to_its_projects_tenant_on_the_terms_given(browser: Client, project: Project) -> None:
    browser.post(url("apitoken", "add"), token_values(project))
    token = ApiToken.objects.get()
    assert (token.tenant, token.project) == (project.tenant, project)
    assert token.allowed_models == ["gpt-*", "small"]
    assert token.allowed_cidrs == ["203.0.113.0/24"]
    assert token.created_by.email == "olga@example.com"
    assert [event.actor_label for event in events("token.issued")] == ["olga@example.com"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("allowed_cidrs", "everywhere"), ("scopes", ["everything"]), ("project", ""), ("requests_per_minute", "-1")],
)
def test_bad_terms_are_refused_in_the_form(browser: Client, project: Project, field: str, value: Any) -> None:
    answer = browser.post(url("apitoken", "add"), token_values(project, **{field: value}))
    assert answer.context["adminform"].form.errors[field]
    assert not ApiToken.objects.exists()


def test_a_live_name_is_refused_in_the_form(browser: Client, token: ApiToken) -> None:
    answer = browser.post(url("apitoken", "add"), token_values(token.project, name=token.name))
    assert "has a token of that name already" in str(answer.context["adminform"].form.errors)


def test_rotating_shows_the_new_text_once_and_revokes_the_old(browser: Client, token: ApiToken) -> None:
    answer = browser.post(url("apitoken", "do", token.pk, "rotate"))
    [(new, text)] = answer.context["issued"]
    assert "no-store" in answer["cache-control"]
    assert text in answer.content.decode()
    token.refresh_from_db()
    assert token.status == "revoked"
    assert (new.name, new.status) == (token.name, "active")
    assert len(events("token.rotated")) == 1


def test_rotating_what_is_revoked_does_nothing(browser: Client, token: ApiToken, actor: Actor) -> None:
    token.revoke(actor)
    answer = browser.post(url("apitoken", "do", token.pk, "rotate"))
    assert "none of the chosen tokens was live" in answer.content.decode()
    assert ApiToken.objects.count() == 1


def test_revoking_several_at_once_is_audited_one_by_one(browser: Client, token: ApiToken, actor: Actor) -> None:
    second, _ = ApiToken.issue(tenant=token.tenant, project=token.project, name="second", actor=actor)
    chosen = {"action": "revoke", "_selected_action": [token.pk, second.pk]}
    assert browser.post(url("apitoken", "changelist"), chosen).status_code == 302
    assert {found.status for found in ApiToken.objects.all()} == {"revoked"}
    assert len(events("token.revoked")) == 2


def test_terms_of_a_live_token_can_change_and_of_a_revoked_one_not(
    browser: Client, token: ApiToken, actor: Actor
) -> None:
    page = url("apitoken", "change", token.pk)
    values = {"name": "ci", "scopes": ["inference"], "allowed_models": "small", "requests_per_minute": "60"}
    assert browser.post(page, values).status_code == 302
    [event] = events("token.changed")
    assert event.changes == {"allowed_models": [["*"], ["small"]], "requests_per_minute": [0, 60]}
    token.revoke(actor)
    assert browser.post(page, values | {"requests_per_minute": "0"}).status_code == 403


def test_a_token_cannot_be_deleted(browser: Client, token: ApiToken) -> None:
    assert browser.post(url("apitoken", "delete", token.pk), {"post": "yes"}).status_code == 403


def test_an_audit_trail_that_fails_issues_no_token(
    browser: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no audit row, no act")

    monkeypatch.setattr(AuditEvent, "save", refuse)
    for page, values in ((url("apitoken", "add"), token_values(project)), (url("tenant", "add"), tenant_values())):
        with pytest.raises(RuntimeError, match="no audit row"):
            browser.post(page, values)
    assert not ApiToken.objects.exists()
    assert Tenant.objects.count() == 1


# --------------------------------------------------------------------------- tenants


def test_a_tenant_comes_with_its_first_project(browser: Client, db: None) -> None:
    project = {"projects-TOTAL_FORMS": "1", "projects-0-slug": "web", "projects-0-name": "Web"}
    assert browser.post(url("tenant", "add"), tenant_values(**project)).status_code == 302
    tenant = Tenant.objects.get(slug="globex")
    assert tenant.projects.get().slug == "web"
    chain = AuditEvent.objects.filter(tenant=tenant).order_by("sequence")
    assert [event.action for event in chain] == ["tenant.created", "project.created"]


def test_a_member_is_added_changed_and_removed_in_the_tenants_page(
    browser: Client, tenant: Tenant, operator: User
) -> None:
    page = url("tenant", "change", tenant.pk)
    row = {"memberships-TOTAL_FORMS": "1", "memberships-0-user": operator.pk, "memberships-0-tenant": tenant.pk}
    kept = tenant_values(slug="acme", name="", time_zone="UTC", **row)
    assert browser.post(page, kept | {"memberships-0-role": "viewer"}).status_code == 302
    member = Membership.objects.get()
    kept |= {"memberships-INITIAL_FORMS": "1", "memberships-0-id": member.pk}
    assert browser.post(page, kept | {"memberships-0-role": "admin"}).status_code == 302
    assert browser.post(page, kept | {"memberships-0-role": "admin", "memberships-0-DELETE": "on"}).status_code == 302
    assert not Membership.objects.exists()
    actions = AuditEvent.objects.filter(tenant=tenant).order_by("sequence").values_list("action", "changes")
    assert [action for action, _ in actions] == ["member.created", "member.changed", "member.removed"]
    assert actions[1][1] == {"role": ["viewer", "admin"]}


def test_a_tenant_is_switched_off_but_never_deleted(browser: Client, tenant: Tenant) -> None:
    assert browser.post(url("tenant", "do", tenant.pk, "switch_off")).status_code == 302
    tenant.refresh_from_db()
    assert not tenant.enabled
    assert [event.changes for event in events("tenant.changed")] == [{"enabled": [True, False]}]
    assert browser.post(url("tenant", "delete", tenant.pk), {"post": "yes"}).status_code == 403


def test_the_list_counts_requests_and_adds_up_spend(browser: Client, token: ApiToken, model: Model) -> None:
    log_request(token)
    attempt = open_attempt(token, model)
    settle(attempt, cost_usd=Decimal("0.25"))
    Adjustment.objects.create(tenant=token.tenant, attempt=attempt, reason="credit", amount_usd=Decimal("-0.05"))
    Tenant.objects.create(slug="idle")
    listed = browser.get(url("tenant", "changelist")).context["cl"].result_list
    figures = {tenant.slug: tenant.figures for tenant in listed}
    assert figures["acme"] == {"projects": 1, "tokens": 1, "requests": 1, "spend": Decimal("0.2")}
    assert figures["idle"] == {"projects": 0, "tokens": 0, "requests": 0, "spend": 0}


def test_fifty_tenants_take_as_many_queries_as_one(browser: Client, tenant: Tenant) -> None:
    page = url("tenant", "changelist")
    browser.get(page)
    with CaptureQueriesContext(connection) as few:
        browser.get(page)
    Tenant.objects.bulk_create(Tenant(slug=f"tenant-{number}") for number in range(49))
    with CaptureQueriesContext(connection) as many:
        browser.get(page)
    assert len(many) == len(few)


def test_names_stay_unique_within_a_tenant(browser: Client, project: Project) -> None:
    Project.objects.create(tenant=project.tenant, slug="batch")
    answer = browser.post(url("project", "change", project.pk), {"slug": "batch"})
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors


# --------------------------------------------------------------------------- people


def test_a_person_is_added_by_e_mail_address(browser: Client, db: None) -> None:
    password = {"usable_password": "true", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert browser.post(url("user", "add"), {"email": "bob@acme.example", **password}).status_code == 302
    bob = User.objects.get(email="bob@acme.example")
    assert bob.check_password(NEW_PASSWORD)
    assert not bob.is_staff
    [event] = events("user.created")
    assert event.changes["password"] == [None, "***"]


def test_setting_somebodys_password_is_audited_without_it(browser: Client, db: None) -> None:
    bob = User.objects.create_user("bob@acme.example", OLD_PASSWORD)
    page = reverse("admin:auth_user_password_change", args=[bob.pk])
    assert browser.get(page).status_code == 200
    values = {"usable_password": "true", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert browser.post(page, values).status_code == 302
    [event] = events("user.changed")
    assert (event.object_id, event.changes) == (str(bob.pk), {"password": ["***", "***"]})


def test_changing_ones_own_password_is_audited(browser: Client, operator: User) -> None:
    operator.set_password(OLD_PASSWORD)
    operator.save()
    browser.force_login(operator)
    values = {"old_password": OLD_PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    assert browser.post(reverse("admin:password_change"), values).status_code == 302
    [event] = events("user.changed")
    assert event.actor_id == operator.pk
    assert browser.get(reverse("admin:index")).status_code == 200


def test_a_tenants_page_leads_to_all_that_is_its_own(browser: Client, token: ApiToken, other_tenant: Tenant) -> None:
    tenant = token.tenant
    for owner in (tenant, other_tenant):
        Budget.objects.create(tenant=owner, name=f"of-{owner}", scope="tenant", metric="usd", cap=1)
        RateLimit.objects.create(tenant=owner, scope="tenant", concurrent=1)
    page = browser.get(url("tenant", "change", tenant.pk)).content.decode()
    links = {text: html.unescape(href) for href, text in re.findall(r'<a href="([^"?]+\?[^"]+)">([a-z ]+)</a>', page)}
    for text in (
        "tokens", "providers", "models", "budgets", "limits", "alert rules", "alerts", "requests", "ledger",
        "spend by the day", "spend by the hour", "audit",
    ):  # fmt: skip
        answer = browser.get(links[text])
        assert answer.status_code == 200, text  # a filter that a list does not know would lead elsewhere
        assert answer.context["cl"].has_active_filters, text
    for text in ("budgets", "limits"):
        assert [row.tenant for row in browser.get(links[text]).context["cl"].result_list] == [tenant]
