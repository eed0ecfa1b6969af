"""The operators' pages of alerts: channels, rules, what was told and whether it arrived."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import AuditEvent
from billing.admin import alerts
from billing.models import Alert, AlertChannel, AlertDelivery, AlertRule, Budget, UsageHour, UsageHourTag, UsageHourUser
from tenants.crypto import DecryptionFailed
from tenants.models import ApiToken, Tenant
from tests.gateway.test_admin import form_values

SIGNING_SECRET = "whsec-canary-0123456789"


def url(model: str, page: str, *args: Any) -> str:
    return reverse(f"admin:billing_{model}_{page}", args=args)


def save(browser: Client, model: str, row: Any, **changes: Any) -> Any:
    page = url(model, "change", row.pk)
    return browser.post(page, form_values(browser.get(page)) | changes, follow=True)


def channel_of(tenant: Tenant | None, name: str = "hook", **values: Any) -> AlertChannel:
    facts = {"kind": "webhook", "address": "https://hooks.example.com/T0/B1"} | values
    return AlertChannel.objects.create(tenant=tenant, name=name, **facts)


@pytest.fixture
def hook(browser: Client, tenant: Tenant) -> AlertChannel:
    """As an operator makes one."""
    values = {
        "tenant": tenant.pk, "name": "hook", "kind": "webhook", "address": "https://hooks.example.com/T0/B1",
        "secret": SIGNING_SECRET, "enabled": "on",
    }  # fmt: skip
    assert browser.post(url("alertchannel", "add"), values).status_code == 302
    return AlertChannel.objects.get()


# --------------------------------------------------------------------------- channels


def test_a_channels_secret_is_kept_encrypted_and_never_shown(browser: Client, hook: AlertChannel) -> None:
    assert hook.reveal_secret() == SIGNING_SECRET
    assert SIGNING_SECRET.encode() not in bytes(hook.secret_ciphertext)
    created = AuditEvent.objects.get(action="alert_channel.created")
    assert created.changes["secret_ciphertext"] == [None, "***"]
    for page in (url("alertchannel", "changelist"), url("alertchannel", "change", hook.pk)):
        assert SIGNING_SECRET not in browser.get(page).content.decode()


def test_a_lists_webhook_shows_its_host_only(browser: Client, hook: AlertChannel) -> None:
    html = browser.get(url("alertchannel", "changelist")).content.decode()
    assert "hooks.example.com/…" in html
    assert "T0/B1" not in html


def test_saving_without_a_secret_leaves_the_stored_one(browser: Client, hook: AlertChannel) -> None:
    save(browser, "alertchannel", hook, name="renamed")
    hook.refresh_from_db()
    assert (hook.name, hook.reveal_secret()) == ("renamed", SIGNING_SECRET)


def test_a_new_address_clears_the_secret_and_says_so(browser: Client, hook: AlertChannel) -> None:
    answer = save(browser, "alertchannel", hook, address="https://other.example.com/")
    assert "so it was cleared" in answer.content.decode()
    hook.refresh_from_db()
    assert (hook.address, hook.reveal_secret()) == ("https://other.example.com/", "")
    changes = AuditEvent.objects.get(action="alert_channel.changed").changes
    assert changes["secret_ciphertext"] == ["***", None]


def test_a_new_address_and_a_new_secret_go_together(browser: Client, hook: AlertChannel) -> None:
    save(browser, "alertchannel", hook, address="https://other.example.com/", secret="another-secret")
    hook.refresh_from_db()
    assert hook.reveal_secret() == "another-secret"


def test_a_ciphertext_opens_in_its_own_row_and_at_its_own_address_only(
    hook: AlertChannel, other_tenant: Tenant
) -> None:
    other = channel_of(hook.tenant, "other")
    other.secret_ciphertext = hook.secret_ciphertext
    moved = AlertChannel.objects.get(pk=hook.pk)
    moved.address = "https://other.example.com/"
    taken = AlertChannel.objects.get(pk=hook.pk)
    taken.tenant = other_tenant
    for channel in (other, moved, taken):
        with pytest.raises(DecryptionFailed):
            channel.reveal_secret()


def test_a_channel_without_a_secret_has_the_empty_one(tenant: Tenant) -> None:
    channel = channel_of(tenant)
    assert (channel.has_secret, channel.reveal_secret()) == (False, "")


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("webhook", "http://hooks.example.com/"),
        ("webhook", "https://10.0.0.1/"),
        ("slack", "https://user:pass@hooks.example.com/"),
        ("email", "ops@example.com, nobody"),
        ("email", ","),
    ],
)
def test_an_address_that_cannot_be_reached_is_refused(browser: Client, tenant: Tenant, kind: str, address: str) -> None:
    values = {"tenant": tenant.pk, "name": "c", "kind": kind, "address": address}
    answer = browser.post(url("alertchannel", "add"), values)
    assert list(answer.context["adminform"].form.errors) == ["address"]


@pytest.mark.parametrize(
    ("refusal", "told"), [(None, "the test was taken."), ("The endpoint answered 500.", "The endpoint answered 500.")]
)
def test_a_test_says_whether_it_was_taken(
    browser: Client, hook: AlertChannel, monkeypatch: pytest.MonkeyPatch, refusal: str | None, told: str
) -> None:
    """Sending itself is tested where it lives; here only what the page makes of its result."""
    monkeypatch.setattr(alerts, "send_test", lambda channel: refusal)
    answer = browser.post(url("alertchannel", "do", hook.pk, "send_test"), follow=True)
    assert told in answer.content.decode()


def test_a_channel_with_deliveries_is_switched_off_rather_than_deleted(browser: Client, hook: AlertChannel) -> None:
    alert = Alert.objects.create(kind="budget", occasion="o", message="m", opened_at=datetime.now(UTC))
    AlertDelivery.objects.create(tenant=hook.tenant, alert=alert, channel=hook)
    assert browser.post(url("alertchannel", "delete", hook.pk), {"post": "yes"}).status_code == 403
    browser.post(url("alertchannel", "do", hook.pk, "disable"))
    assert not AlertChannel.objects.get().enabled


# --------------------------------------------------------------------------- rules


def rule_values(tenant: Tenant, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant.pk, "name": "errors", "kind": "error_rate", "threshold": "5", "window_minutes": "15",
        "cooldown_minutes": "60", "least_requests": "20", "enabled": "on",
    } | changes  # fmt: skip


def test_a_rules_channels_are_on_record(browser: Client, tenant: Tenant) -> None:
    first, second = channel_of(tenant, "first"), channel_of(tenant, "second")
    answer = browser.post(url("alertrule", "add"), rule_values(tenant, channels=[first.pk]))
    assert answer.status_code == 302
    rule = AlertRule.objects.get()
    save(browser, "alertrule", rule, channels=[first.pk, second.pk])
    assert set(rule.channels.all()) == {first, second}
    assert AuditEvent.objects.latest("sequence").changes == {"channels": [["first"], ["first", "second"]]}


def test_another_tenants_channel_is_refused(browser: Client, tenant: Tenant, other_tenant: Tenant) -> None:
    foreign = channel_of(other_tenant)
    answer = browser.post(url("alertrule", "add"), rule_values(tenant, channels=[foreign.pk]))
    assert answer.context["adminform"].form.errors == {"channels": ["The channel 'hook' belongs to another tenant."]}
    rule = AlertRule.objects.create(tenant=tenant, name="r", kind="no_traffic")
    answer = save(browser, "alertrule", rule, channels=[foreign.pk])
    assert answer.context["adminform"].form.errors
    assert not rule.channels.exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"threshold": ""}, "threshold"),
        ({"threshold": "-1"}, "threshold"),
        ({"kind": "budget"}, "budget"),
        ({"window_minutes": "0"}, "window_minutes"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_in_the_form(
    browser: Client, tenant: Tenant, changes: dict[str, str], field: str
) -> None:
    answer = browser.post(url("alertrule", "add"), rule_values(tenant, **changes))
    assert list(answer.context["adminform"].form.errors) == [field]


def test_another_tenants_budget_is_refused(browser: Client, tenant: Tenant, other_tenant: Tenant) -> None:
    foreign = Budget.objects.create(tenant=other_tenant, name="b", scope="tenant", metric="usd", cap=1)
    answer = browser.post(url("alertrule", "add"), rule_values(tenant, kind="budget", budget=foreign.pk))
    assert list(answer.context["adminform"].form.errors) == ["budget"]


# --------------------------------------------------------------------------- what was told


def test_open_alerts_come_first(browser: Client, tenant: Tenant) -> None:
    now = datetime.now(UTC)
    for name, age, resolved in (("old", 9, None), ("over", 1, now), ("older", 10, None), ("long over", 5, now)):
        Alert.objects.create(
            tenant=tenant, kind="budget", occasion=name, message=name, opened_at=now - timedelta(hours=age),
            resolved_at=resolved,
        )  # fmt: skip
    shown = browser.get(url("alert", "changelist")).context["cl"].result_list
    assert [alert.message for alert in shown] == ["old", "older", "over", "long over"]
    still = browser.get(url("alert", "changelist"), {"state": "open"}).context["cl"].result_list
    assert {alert.message for alert in still} == {"old", "older"}


@pytest.mark.parametrize("model", ["alert", "alertdelivery", "usagehour", "usagehourtag", "usagehouruser"])
@pytest.mark.parametrize("page", ["add", "change", "delete"])
def test_nobody_writes_what_was_told_or_summed_up_by_hand(
    browser: Client, tenant: Tenant, model: str, page: str
) -> None:
    now = datetime.now(UTC)
    alert = Alert.objects.create(tenant=tenant, kind="budget", occasion="o", message="m", opened_at=now)
    rows = {
        "alert": alert,
        "alertdelivery": AlertDelivery.objects.create(tenant=tenant, alert=alert, channel=channel_of(tenant)),
        "usagehour": UsageHour.objects.create(hour=now, vendor_model="x", purpose="serve"),
        "usagehourtag": UsageHourTag.objects.create(hour=now, tag="x"),
        "usagehouruser": UsageHourUser.objects.create(hour=now, end_user="x"),
    }
    args = [] if page == "add" else [rows[model].pk]
    assert browser.post(url(model, page, *args), {"post": "yes"}).status_code == 403


def test_sums_name_what_they_count(browser: Client, token: ApiToken, model: Any) -> None:
    UsageHour.objects.create(
        hour=datetime.now(UTC), tenant_id=token.tenant_id, project_id=token.project_id, token_id=token.pk,
        model_id=model.pk, provider_id=model.provider_id, vendor_model="small-1", purpose="serve", requests=1234,
    )  # fmt: skip
    html = browser.get(url("usagehour", "changelist"), {"tenant": str(token.tenant_id)}).content.decode()
    for shown in ("acme", "web / ci", "small", "lab", "1,234"):
        assert shown in html
    assert browser.get(url("usagehour", "changelist"), {"tenant": "nonsense"}).status_code == 200
