"""The operators' page of the audit trail."""

from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from audit import admin
from audit.models import AuditEvent
from audit.record import Actor, record
from tenants.models import Tenant, User


@pytest.fixture
def event(tenant: Tenant, actor: Actor) -> AuditEvent:
    with transaction.atomic():
        return record(actor, "tenant.changed", tenant, tenant=tenant, changes={"enabled": [True, False]})


def url(page: str, *args: Any) -> str:
    return reverse(f"admin:audit_auditevent_{page}", args=args)


def messages(answer: Any) -> list[str]:
    return [str(message) for message in answer.context["messages"]]


@pytest.mark.parametrize("page", ["add", "change", "delete"])
def test_nobody_writes_the_trail_by_hand(browser: Client, event: AuditEvent, page: str) -> None:
    args = [] if page == "add" else [event.pk]
    assert browser.post(url(page, *args), {"post": "yes"}).status_code == 403


def test_an_event_shows_what_changed_field_by_field(browser: Client, event: AuditEvent) -> None:
    html = browser.get(url("change", event.pk)).content.decode()
    assert "<tr><th>enabled</th><td>True</td><td>False</td></tr>" in html
    assert bytes(event.digest).hex() in html


def test_events_are_found_by_the_row_they_are_about(
    browser: Client, event: AuditEvent, other_tenant: Tenant, actor: Actor
) -> None:
    with transaction.atomic():
        record(actor, "tenant.changed", other_tenant, tenant=other_tenant)
    found = browser.get(url("changelist"), {"object_id": event.object_id}).context["cl"].result_list
    assert list(found) == [event]


def test_whole_chains_verify(browser: Client, event: AuditEvent, operator: User, actor: Actor) -> None:
    with transaction.atomic():
        record(actor, "user.changed", operator, tenant=None)
    answer = browser.post(url("verify"), follow=True)
    assert messages(answer) == ["Every chain is whole: no event was changed, removed or moved."]


def test_a_broken_chain_is_named_with_where_it_breaks(
    browser: Client, event: AuditEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses to tamper, and finding tampers is tested where it lives; here what the page says."""
    monkeypatch.setattr(admin, "verify_chain", lambda tenant: [3, 7] if tenant else [])
    assert messages(browser.post(url("verify"), follow=True)) == ["The chain of acme is broken at 3, 7."]
