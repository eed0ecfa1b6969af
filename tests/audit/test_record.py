import threading
from datetime import UTC, datetime
from decimal import Decimal
from unittest.mock import patch

import pytest
from django.db import DatabaseError, IntegrityError, InternalError, connection, transaction

from audit.actions import Action
from audit.models import AuditEvent
from audit.record import MASK, Actor, changes_between, record, verify_chain
from gateway.models import Provider
from tenants.models import ApiToken, Project, Tenant, User
from tests.provision import Database

WRITERS = 50


def make_events(tenant: Tenant, actor: Actor, count: int) -> list[AuditEvent]:
    return [
        record(actor, Action.TENANT_CHANGED, tenant, tenant=tenant, changes={"n": [i, i + 1]}) for i in range(count)
    ]


def test_an_event_says_who_did_what_to_which_object(tenant: Tenant, operator: User) -> None:
    event = record(
        Actor.person(operator, "192.0.2.7"),
        Action.TENANT_CHANGED,
        tenant,
        tenant=tenant,
        changes={"name": ["", "Acme"]},
    )
    event.refresh_from_db()

    assert (event.actor, event.actor_label, event.client_ip) == (operator, "olga@example.com", "192.0.2.7")
    assert (event.action, event.object_type, event.object_id) == ("tenant.changed", "tenants.tenant", str(tenant.pk))
    assert (event.object_label, event.changes) == ("acme", {"name": ["", "Acme"]})


def test_the_chain_of_a_tenant_is_its_own(tenant: Tenant, other_tenant: Tenant, actor: Actor) -> None:
    make_events(tenant, actor, 2)
    make_events(other_tenant, actor, 1)
    record(actor, Action.MASTER_KEY_ROTATED, None, tenant=None)

    chains = AuditEvent.objects.order_by("sequence").values_list("tenant__slug", "sequence")
    assert sorted(chains, key=str) == [("acme", 1), ("acme", 2), ("umbrella", 1), (None, 1)]
    assert verify_chain(tenant) == verify_chain(other_tenant) == verify_chain(None) == []


def test_events_of_all_kinds_of_values_verify(tenant: Tenant, operator: User) -> None:
    values = [
        0.1,
        1e22,
        -1e-7,
        10**30,
        Decimal("2.50"),
        datetime(2026, 1, 1, tzinfo=UTC),
        "ü\u2028",
        None,
        [True, {"a": 1.0}],
    ]
    for address in ("::ffff:192.0.2.7", "2001:DB8::1", None):
        actor = Actor("x" * 300, operator, address)
        record(actor, Action.TENANT_CHANGED, tenant, tenant=tenant, changes={"values": values})

    assert verify_chain(tenant) == []


@pytest.mark.django_db
def test_an_act_without_a_transaction_is_refused(actor: Actor) -> None:
    with patch.object(connection, "in_atomic_block", False), pytest.raises(RuntimeError, match="one transaction"):
        record(actor, Action.TENANT_CREATED, None, tenant=None)


def test_no_event_no_act(project: Project, actor: Actor) -> None:
    with (
        patch("audit.record.AuditEvent.save", side_effect=DatabaseError("disk full")),
        pytest.raises(DatabaseError, match="disk full"),
    ):
        ApiToken.issue(tenant=project.tenant, project=project, name="ci", actor=actor)

    assert not ApiToken.objects.exists()
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("statement", ["UPDATE audit_auditevent SET action = 'x'", "DELETE FROM audit_auditevent"])
def test_events_cannot_be_changed_or_deleted(tenant: Tenant, actor: Actor, statement: str) -> None:
    make_events(tenant, actor, 1)

    with pytest.raises((IntegrityError, InternalError), match="append-only"), transaction.atomic():
        connection.cursor().execute(statement)


def test_an_account_can_go_and_its_events_stay(tenant: Tenant, operator: User) -> None:
    record(Actor.person(operator), Action.TENANT_CHANGED, tenant, tenant=tenant)
    operator.delete()

    assert AuditEvent.objects.get().actor_label == "olga@example.com"
    assert verify_chain(tenant) == []


def test_writers_at_the_same_time_make_one_chain(real_commits: Database, actor: Actor) -> None:
    tenant = Tenant.objects.create(slug="acme")
    start = threading.Barrier(WRITERS)

    def write() -> None:
        try:
            start.wait()
            with transaction.atomic():
                record(actor, Action.TENANT_CHANGED, tenant, tenant=tenant)
        finally:
            connection.close()

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    sequences = AuditEvent.objects.order_by("sequence").values_list("sequence", flat=True)
    assert list(sequences) == list(range(1, WRITERS + 1))
    assert verify_chain(tenant) == []


class TestTampering:
    """By somebody who owns the tables and so gets past their triggers."""

    COLUMNS = (
        "id = uuidv7()",
        "at = at + interval '1 microsecond'",
        "actor_id = uuidv7()",
        "actor_label = 'somebody else'",
        "action = 'token.issued'",
        "object_type = 'x'",
        "object_id = 'x'",
        "object_label = 'x'",
        """changes = '{"n": [0, 0]}'""",
        "client_ip = '192.0.2.1'",
        r"digest = '\x00'",
        r"previous_digest = '\x00'",
    )

    @pytest.fixture
    def as_owner(self, real_commits: Database):
        """Runs a statement as the tables' owner, with the triggers off."""
        import psycopg

        def run(statement: str) -> None:
            with psycopg.connect(real_commits.owner_url) as owner:
                owner.execute("ALTER TABLE audit_auditevent DISABLE TRIGGER USER")
                owner.execute(statement)
                owner.execute("ALTER TABLE audit_auditevent ENABLE TRIGGER USER")

        return run

    def chain(self, actor: Actor) -> Tenant:
        tenant = Tenant.objects.create(slug="acme")
        with transaction.atomic():
            make_events(tenant, actor, 20)
        assert verify_chain(tenant) == []
        return tenant

    def test_a_change_of_any_column_of_any_event_shows(self, as_owner, actor: Actor) -> None:
        tenant = self.chain(actor)
        rows = {event.sequence: event for event in AuditEvent.objects.all()}
        for sequence, original in rows.items():
            for column in self.COLUMNS:
                as_owner(f"UPDATE audit_auditevent SET {column} WHERE sequence = {sequence}")
                assert sequence in verify_chain(tenant), (sequence, column)
                as_owner(f"DELETE FROM audit_auditevent WHERE sequence = {sequence}")
                original.save(force_insert=True)
        assert verify_chain(tenant) == []

    def test_a_missing_event_shows(self, as_owner, actor: Actor) -> None:
        tenant = self.chain(actor)
        as_owner("DELETE FROM audit_auditevent WHERE sequence IN (1, 7, 8)")
        assert verify_chain(tenant) == [1, 7, 8]

    def test_events_that_swapped_places_show(self, as_owner, actor: Actor) -> None:
        tenant = self.chain(actor)
        as_owner(
            "UPDATE audit_auditevent SET sequence = CASE sequence WHEN 3 THEN 104 ELSE 103 END WHERE sequence IN (3, 4)"
        )
        as_owner("UPDATE audit_auditevent SET sequence = sequence - 100 WHERE sequence > 100")
        assert {3, 4} <= set(verify_chain(tenant))


def test_changes_name_what_differs(provider: Provider) -> None:
    before = Provider.objects.get(pk=provider.pk)
    provider.weight, provider.deadlines = 3, {"total": 30}

    assert changes_between(before, provider) == {"weight": [1, 3], "deadlines": [{}, {"total": 30}]}
    assert changes_between(None, provider)["name"] == [None, "lab"]
    assert changes_between(provider, None)["name"] == ["lab", None]
    assert changes_between(before, before) == {}


def test_changes_hide_secrets(operator: User, token: ApiToken) -> None:
    operator.set_password("correct horse battery")
    operator.save()
    before = User.objects.get(pk=operator.pk)
    operator.set_password("another horse battery")

    assert changes_between(before, operator) == {"password": [MASK, MASK]}
    assert changes_between(None, token)["digest"] == [None, MASK]
