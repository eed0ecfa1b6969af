"""The operators' pages of providers, models and requests."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from billing.models import (
    AlertChannel,
    AlertRule,
    Budget,
    Plan,
    RateLimit,
    Subscription,
)
from gateway import provider_check
from gateway.admin import providers
from gateway.models import Alias, Model, Provider, RequestLog
from routing.models import (
    PublishedScore,
    Ramp,
    RoutingSettings,
    StrategyChoice,
)
from tenants.models import ApiToken
from tests.gateway.operators_world import VENDOR_SECRET, World, form_values, page
from tests.ledger_rows import log_request, open_attempt, settle


def mutation(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("at")


# --------------------------------------------------------------------------- providers


def test_a_provider_is_added_with_its_key(browser: Client, tenant: Any) -> None:
    values = {
        "tenant": tenant.pk, "name": "openai", "kind": "openai", "key": VENDOR_SECRET, "enabled": "on",
        "on_disconnect": "cancel", "weight": "1", "first_token": "12.5",
    }  # fmt: skip
    assert browser.post(page(Provider, "add"), values).status_code == 302
    provider = Provider.objects.get(name="openai")
    assert provider.active_key().reveal() == VENDOR_SECRET
    assert provider.deadlines == {"first_token": 12.5}
    created = mutation("provider.created")
    assert (created.actor_label, created.client_ip) == ("olga@example.com", "127.0.0.1")
    assert VENDOR_SECRET not in str(list(AuditEvent.objects.values()))


def test_a_new_address_revokes_the_key(browser: Client, world: World) -> None:
    url = page(Provider, "change", world[Provider].pk)
    values = form_values(browser.get(url)) | {"base_url": "https://other.example/v1"}
    answer = browser.post(url, values, follow=True)
    assert "so it was revoked" in answer.content.decode()
    assert world[Provider].active_key() is None
    assert mutation("provider.changed").changes == {"base_url": ["https://lab.example/v1", "https://other.example/v1"]}


def test_a_forbidden_address_is_refused_with_a_reason(browser: Client, world: World) -> None:
    url = page(Provider, "change", world[Provider].pk)
    answer = browser.post(url, form_values(browser.get(url)) | {"base_url": "http://169.254.169.254/"})
    assert answer.context["adminform"].form.errors["base_url"]
    assert Provider.objects.get().base_url == "https://lab.example/v1"


def test_a_key_that_cannot_travel_in_a_header_is_refused(browser: Client, world: World) -> None:
    url = page(Provider, "change", world[Provider].pk)
    answer = browser.post(url, form_values(browser.get(url)) | {"key": "sk with spaces"})
    assert answer.context["adminform"].form.errors["key"]


def test_two_providers_of_a_tenant_cannot_share_a_name(browser: Client, world: World) -> None:
    Provider.objects.create(tenant=world[Provider].tenant, name="second", kind="openai")
    url = page(Provider, "change", world[Provider].pk)
    answer = browser.post(url, form_values(browser.get(url)) | {"name": "second"})
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors


def test_saving_unchanged_leaves_no_trace(browser: Client, world: World) -> None:
    before = AuditEvent.objects.count()
    changeable = (Provider, Model, Alias, Budget, RateLimit, Plan, Subscription, AlertChannel, AlertRule)
    for model in (*changeable, RoutingSettings, StrategyChoice, PublishedScore, Ramp):
        url = page(model, "change", world[model].pk)
        assert browser.post(url, form_values(browser.get(url))).status_code == 302
    assert AuditEvent.objects.count() == before


def test_revoking_a_key_and_disabling_are_audited(browser: Client, world: World) -> None:
    for action in ("revoke_key", "disable"):
        assert browser.post(page(Provider, "do", world[Provider].pk, action)).status_code == 302
    assert world[Provider].active_key() is None
    assert not Provider.objects.get().enabled
    assert mutation("provider_key.revoked")
    assert mutation("provider.changed").changes == {"enabled": [True, False]}


def test_checking_a_provider_says_what_was_found(
    browser: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself is tested where it lives; here only what the page makes of its result."""
    found = [
        provider_check.ProviderCheck("lab", True, "answer", "ok", latency_ms=312.0),
        provider_check.ProviderCheck("lab", False, "credentials", "The key is refused."),
    ]
    monkeypatch.setattr(providers, "check_provider", lambda provider: found.pop(0))
    url = page(Provider, "do", world[Provider].pk, "check_now")
    assert "Lab answered in 312 ms." in browser.post(url, follow=True).content.decode()
    assert "Lab failed at credentials: The key is refused." in browser.post(url, follow=True).content.decode()


def test_a_check_asks_the_vendor_for_real(browser: Client, tenant: Any) -> None:
    """Port 1 of loopback refuses at once."""
    away = Provider.objects.create(
        tenant=tenant, name="away", kind="openai-compatible", base_url="http://127.0.0.1:1/v1"
    )
    Model.objects.create(tenant=tenant, name="x", provider=away, vendor_model="x")
    answer = browser.post(page(Provider, "do", away.pk, "check_now"), follow=True)
    assert "Away failed at connect" in answer.content.decode()
    away.refresh_from_db()
    assert away.check_status == "failing"


def test_a_failing_audit_trail_rolls_every_change_back(
    browser: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no audit row, no act")

    provider, model, alias = world[Provider], world[Model], world[Alias]
    change = page(Provider, "change", provider.pk)
    values = form_values(browser.get(change)) | {"name": "renamed"}
    monkeypatch.setattr(AuditEvent, "save", refuse)
    for url, data in (
        (change, values),
        (page(Provider, "do", provider.pk, "disable"), {}),
        (page(Provider, "do", provider.pk, "revoke_key"), {}),
        (page(Model, "do", model.pk, "disable"), {}),
        (page(Alias, "delete", alias.pk), {"post": "yes"}),
        (page(Alias, "changelist"), {"action": "delete_selected", "_selected_action": [alias.pk], "post": "yes"}),
    ):
        with pytest.raises(RuntimeError, match="no audit row"):
            browser.post(url, data)
    stored = Provider.objects.get()
    assert (stored.name, stored.enabled, stored.active_key() is None) == ("lab", True, False)
    assert Model.objects.get().enabled
    assert Alias.objects.exists()


# --------------------------------------------------------------------------- models


def model_values(world: World, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": world[Provider].tenant_id, "name": "large", "provider": world[Provider].pk, "vendor_model": "large-1",
        "enabled": "on", "modality": "chat", "balancing": "ordered",
    } | changes  # fmt: skip


def test_fallbacks_keep_their_order_and_must_exist(browser: Client, world: World) -> None:
    refused = browser.post(page(Model, "add"), model_values(world, fallbacks="small\nnobody"))
    assert refused.context["adminform"].form.errors == {"fallbacks": ["There is no model nobody."]}
    values = model_values(world, fallbacks="small\n\nauto\nsmall\n", capabilities=["tools", "vision"])
    assert browser.post(page(Model, "add"), values).status_code == 302
    added = Model.objects.get(name="large")
    assert added.fallbacks == ["small", "auto"]
    assert added.capabilities == ["tools", "vision"]


def test_a_model_is_not_its_own_fallback(browser: Client, world: World) -> None:
    answer = browser.post(page(Model, "add"), model_values(world, fallbacks="large"))
    assert answer.context["adminform"].form.errors == {"fallbacks": ["A model cannot be its own fallback."]}


def test_a_deployment_is_added_on_its_models_page_and_audited(browser: Client, world: World) -> None:
    model, url = world[Model], page(Model, "change", world[Model].pk)
    inline = {"TOTAL_FORMS": 1, "0-model": model.pk, "0-provider": model.provider.pk}
    inline |= {"0-vendor_model": "small-2", "0-weight": 3, "0-position": 0}
    added_inline = {f"deployments-{name}": value for name, value in inline.items()}
    answer = browser.post(url, form_values(browser.get(url)) | added_inline)
    assert answer.status_code == 302, answer.context["errors"]
    added = model.deployments.get()
    assert (added.vendor_model, added.weight, added.tenant) == ("small-2", 3, model.tenant)
    assert AuditEvent.objects.filter(action="deployment.created", tenant=model.tenant).exists()


def test_another_tenants_provider_is_refused(browser: Client, world: World, other_tenant: Any) -> None:
    answer = browser.post(page(Model, "add"), model_values(world, tenant=other_tenant.pk))
    assert answer.context["adminform"].form.errors["provider"]


def test_lists_and_pages_show_the_price_in_force_and_where_it_comes_from(browser: Client, world: World) -> None:
    unpriced = Model.objects.create(
        tenant=world[Model].tenant, name="mystery", provider=world[Provider], vendor_model="nobody-knows"
    )
    listed = browser.get(page(Model, "changelist")).content.decode()
    assert "0.15 / 0.6" in listed
    assert "no price" in listed
    assert "operator, since" in browser.get(page(Model, "change", world[Model].pk)).content.decode()
    assert "Set price" in browser.get(page(Model, "change", unpriced.pk)).content.decode()


def test_what_has_a_history_cannot_be_deleted(browser: Client, world: World) -> None:
    for model in (Provider, Model):
        assert browser.post(page(model, "delete", world[model].pk), {"post": "yes"}).status_code == 403
    unused = Model.objects.create(tenant=world[Model].tenant, name="unused", provider=world[Provider], vendor_model="x")
    assert browser.post(page(Model, "delete", unused.pk), {"post": "yes"}).status_code == 302
    assert mutation("model.removed").object_id == str(unused.pk)


def test_an_alias_must_lead_to_a_model_of_its_tenant(browser: Client, world: World, other_tenant: Any) -> None:
    values = {"tenant": other_tenant.pk, "name": "best", "model_name": "small"}
    answer = browser.post(page(Alias, "add"), values)
    assert answer.context["adminform"].form.errors == {"model_name": ["umbrella has no model of this name."]}
    answer = browser.post(page(Alias, "add"), values | {"name": "clever", "model_name": "best"})
    assert (answer.status_code, Alias.objects.get(tenant=other_tenant).model_name) == (302, "best")


# --------------------------------------------------------------------------- requests


def test_a_requests_page_tells_its_story(browser: Client, world: World) -> None:
    asked = log_request(world[ApiToken], fallback_used=True, attempts=2, finish_reason="stop")
    failed = open_attempt(world[ApiToken], world[Model], request_id=asked.pk)
    settle(failed, outcome="failed", error_code="upstream_timeout", cost_usd=None, status_code=504)
    settle(open_attempt(world[ApiToken], world[Model], request_id=asked.pk, purpose="fallback"))
    html = browser.get(page(RequestLog, "change", asked.pk)).content.decode()
    assert html.index("upstream_timeout") < html.index("0.000123") < html.index("finished by stop")
    assert "unpriced" in html


@pytest.mark.parametrize(("outcome", "found"), [("answered", 200), ("failed", 502), ("left", 499)])
def test_requests_are_filtered_by_outcome(browser: Client, token: ApiToken, outcome: str, found: int) -> None:
    for status in (200, 499, 502):
        log_request(token, status=status)
    shown = browser.get(page(RequestLog, "changelist"), {"outcome": outcome}).context["cl"].result_list
    assert [row.status for row in shown] == [found]


def test_a_request_is_found_by_its_identifier_only(browser: Client, token: ApiToken) -> None:
    wanted, _ = log_request(token), log_request(token)
    url = page(RequestLog, "changelist")
    assert list(browser.get(url, {"q": f" {wanted.pk} "}).context["cl"].result_list) == [wanted]
    assert not browser.get(url, {"q": "small"}).context["cl"].result_list


def test_months_and_days_bound_the_identifiers(browser: Client, token: ApiToken) -> None:
    now = datetime.now(UTC)
    older = log_request(token, at=now.replace(year=now.year - 1, day=3, hour=23, minute=59))
    newer = log_request(token)
    url = page(RequestLog, "changelist")
    whole = browser.get(url)
    assert list(whole.context["cl"].result_list) == [newer, older]
    assert len(whole.context["cl"].periods) == 13
    for period in (f"{older.started_at:%Y-%m}", f"{older.started_at:%Y-%m-%d}"):
        narrowed = browser.get(url, {"period": period})
        assert list(narrowed.context["cl"].result_list) == [older]
        assert [shown.selected for shown in narrowed.context["cl"].periods].count(True) == 1
    assert not browser.get(url, {"period": f"{older.started_at:%Y-%m}-04"}).context["cl"].result_list


def test_a_nonsensical_date_is_no_server_error(browser: Client) -> None:
    for period in ("yesterday", "2026-13", "2026-02-30", "0000-01"):
        assert browser.get(page(RequestLog, "changelist"), {"period": period}).status_code == 302


def test_endless_lists_are_not_counted_to_the_end(
    browser: Client, token: ApiToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin_pages.MOST_COUNTED", 2)
    for _ in range(3):
        log_request(token)
    with CaptureQueriesContext(connection) as queries:
        html = browser.get(page(RequestLog, "changelist")).content.decode()
    assert "more than 2 requests" in html
    counted = [query["sql"] for query in queries if "COUNT(" in query["sql"] and "requestlog" in query["sql"]]
    assert all("LIMIT 2" in sql for sql in counted)
    assert counted
