"""Old audit events go, and what remains still proves itself."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from pytest_django import Settings

from audit import record as recording
from audit import retention
from audit.actions import Action
from audit.models import AuditCheckpoint, AuditEvent
from audit.record import Actor, record, verify_chain
from audit.retention import remove_old_events
from billing.models import Plan, Subscription
from tenants.models import Tenant
from tests.provision import Database

NOW = datetime.now(UTC)
Write = Callable[..., None]
AsOf = Callable[[int], AbstractContextManager[datetime]]


@pytest.fixture
def as_of(monkeypatch: pytest.MonkeyPatch) -> AsOf:
    """What is recorded inside is recorded so many days ago."""

    @contextmanager
    def as_of(days: int) -> Iterator[datetime]:
        then = NOW - timedelta(days=days)

        class Then(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return then

        with monkeypatch.context() as patched:
            patched.setattr(recording, "datetime", Then)
            yield then

    return as_of


@pytest.fixture
def write(actor: Actor, as_of: AsOf) -> Write:
    """Events as of so many days ago, in a tenant's chain or the installation's."""

    def write(tenant: Tenant | None, *days_ago: int) -> None:
        for days in days_ago:
            with as_of(days), transaction.atomic():
                record(actor, Action.TENANT_CHANGED, None, tenant=tenant, changes={"days": [None, days]})

    return write


def keep(tenant: Tenant, days: int, **overrides: int) -> None:
    plan = Plan.objects.create(name=f"plan of {tenant.slug}", audit_retention_days=days)
    Subscription.objects.create(tenant=tenant, plan=plan, overrides=overrides)


def acts(tenant: Tenant | None) -> list[int]:
    """How old, in days, the acts are that are left."""
    events = AuditEvent.objects.filter(tenant=tenant).exclude(action="audit.removed").order_by("sequence")
    return [event.changes["days"][1] for event in events]


def test_what_nobody_keeps_any_longer_goes_and_the_rest_is_whole(tenant: Tenant, write: Write) -> None:
    keep(tenant, 30)
    write(tenant, 50, 40, 31, 29, 1)
    assert remove_old_events(NOW) == {"events": 3, "chains": 1, "broken": []}
    assert acts(tenant) == [29, 1]
    assert verify_chain(tenant) == []


def test_the_removal_is_an_event_of_the_chain(tenant: Tenant, write: Write) -> None:
    keep(tenant, 30)
    write(tenant, 50, 40, 1)
    cut = AuditEvent.objects.get(sequence=2)
    remove_old_events(NOW)
    checkpoint = AuditCheckpoint.objects.get()
    event = AuditEvent.objects.get(action="audit.removed")
    assert (event.tenant, event.sequence, event.actor_label) == (tenant, 4, "audit retention")
    assert (event.object_type, event.object_id) == ("audit.auditcheckpoint", str(checkpoint.pk))
    assert event.changes["digest"] == [None, bytes(cut.digest).hex()]
    assert (event.changes["sequence"], event.changes["events_removed"]) == ([None, 2], [None, 2])
    assert (checkpoint.sequence, bytes(checkpoint.digest)) == (2, bytes(cut.digest))


def test_chains_are_cut_again_and_again(tenant: Tenant, write: Write) -> None:
    keep(tenant, 30)
    write(tenant, *range(60, 2, -1))
    for days in range(0, 20, 5):
        remove_old_events(NOW + timedelta(days=days))
        assert verify_chain(tenant) == []
    assert acts(tenant) == list(range(15, 2, -1))
    assert AuditCheckpoint.objects.count() == 4


def test_a_long_prefix_goes_in_parts(tenant: Tenant, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVENTS_AT_A_TIME", 4)
    keep(tenant, 30)
    write(tenant, *[50] * 10, 1)
    assert remove_old_events(NOW)["events"] == 10
    assert list(AuditCheckpoint.objects.order_by("sequence").values_list("events_removed", flat=True)) == [4, 4, 2]
    assert verify_chain(tenant) == []


def test_a_second_run_finds_nothing_to_do(tenant: Tenant, write: Write) -> None:
    keep(tenant, 30)
    write(tenant, 50, 1)
    remove_old_events(NOW)
    assert remove_old_events(NOW) == {"events": 0, "chains": 0, "broken": []}
    assert AuditEvent.objects.filter(action="audit.removed").count() == 1


def test_the_newest_event_always_stays(tenant: Tenant, write: Write) -> None:
    keep(tenant, 30)
    write(tenant, 60, 50)
    assert remove_old_events(NOW)["events"] == 1
    assert acts(tenant) == [50]


def test_a_trail_of_nothing_but_removals_comes_to_rest(tenant: Tenant, write: Write, as_of: AsOf) -> None:
    keep(tenant, 30)
    write(tenant, 300, 290)
    removed = []
    for days in (200, 150, 100, 50):
        with as_of(days) as then:
            removed.append(remove_old_events(then)["events"])
    assert removed == [1, 1, 0, 0]
    assert verify_chain(tenant) == []


def test_each_plan_and_each_agreement_has_its_own_time(tenant: Tenant, other_tenant: Tenant, write: Write) -> None:
    keep(tenant, 10)
    keep(other_tenant, 10, audit_retention_days=40)
    for owner in (tenant, other_tenant):
        write(owner, 50, 20, 1)
    remove_old_events(NOW)
    assert (acts(tenant), acts(other_tenant)) == ([1], [20, 1])


def test_nothing_goes_where_nobody_said_so(tenant: Tenant, other_tenant: Tenant, write: Write) -> None:
    keep(tenant, 0)
    for owner in (tenant, other_tenant, None):
        write(owner, 5_000, 1)
    assert remove_old_events(NOW)["events"] == 0


def test_the_installations_own_events_have_a_setting(
    tenant: Tenant, other_tenant: Tenant, write: Write, settings: Settings
) -> None:
    settings.AUDIT_RETENTION_DAYS = 30
    keep(tenant, 0)
    for owner in (tenant, other_tenant, None):
        write(owner, 50, 1)
    remove_old_events(NOW)
    assert (acts(tenant), acts(other_tenant), acts(None)) == ([50, 1], [1], [1])
    assert verify_chain(None) == verify_chain(other_tenant) == []


def test_a_plan_keeps_events_for_a_year_unless_it_says_otherwise() -> None:
    assert Plan(name="free").audit_retention_days == 365


class TestTheDatabaseItself:
    """What the gateway's role cannot do, whatever it is told."""

    REMOVE = "SELECT pointsman_remove_audit_events(uuidv7(), %s, %s, 100)"

    @pytest.fixture
    def chain(self, tenant: Tenant, write: Write) -> Tenant:
        keep(tenant, 30)
        write(tenant, 50, 40, 1)
        return tenant

    def refused(self, statement: str, *parameters: Any) -> str:
        with pytest.raises(Error) as refusal, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, parameters)
        return str(refusal.value)

    def test_events_that_no_checkpoint_covers_stay(self, chain: Tenant) -> None:
        remove_old_events(NOW)
        assert "append-only" in self.refused("DELETE FROM audit_auditevent WHERE sequence = 3")
        assert "append-only" in self.refused("UPDATE audit_auditevent SET action = 'x'")

    def test_nobody_writes_a_checkpoint_by_hand(self, chain: Tenant) -> None:
        forged = (
            "INSERT INTO audit_auditcheckpoint (id, sequence, digest, removed_before, events_removed, removed_at) "
            r"VALUES (uuidv7(), 2, '\x00', now(), 2, now())"
        )
        assert "permission denied" in self.refused(forged)
        remove_old_events(NOW)
        assert "permission denied" in self.refused("UPDATE audit_auditcheckpoint SET sequence = 3")
        assert "permission denied" in self.refused("DELETE FROM audit_auditcheckpoint")

    def test_the_events_of_today_are_never_removed(self, chain: Tenant) -> None:
        assert "a day at least" in self.refused(self.REMOVE, chain.pk, NOW)

    def test_another_chain_is_not_touched(self, chain: Tenant, other_tenant: Tenant, write: Write) -> None:
        for owner in (other_tenant, None):
            write(owner, 50, 40, 1)
        remove_old_events(NOW)
        assert AuditEvent.objects.filter(tenant=other_tenant).count() == 3
        assert AuditEvent.objects.filter(tenant=None).count() == 3

    def test_a_removal_that_cannot_be_recorded_does_not_happen(
        self, chain: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise RuntimeError("disk full")

        monkeypatch.setattr(retention, "record_removal", refuse)
        with pytest.raises(RuntimeError, match="disk full"):
            remove_old_events(NOW)
        assert (acts(chain), AuditCheckpoint.objects.count()) == ([50, 40, 1], 0)


class TestTampering:
    """By somebody who owns the tables and so gets past their triggers."""

    @pytest.fixture
    def as_owner(self, real_commits: Database) -> Callable[[str], None]:
        def run(statement: str) -> None:
            with psycopg.connect(real_commits.owner_url, autocommit=True) as owner:
                for table in ("audit_auditevent", "audit_auditcheckpoint"):
                    owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
                owner.execute(statement)
                for table in ("audit_auditevent", "audit_auditcheckpoint"):
                    owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")

        return run

    @pytest.fixture
    def cut(self, as_owner: Callable[[str], None], write: Write) -> Tenant:
        """Events 1 to 3 removed; 4 and 5 are acts, 6 the record of it."""
        tenant = Tenant.objects.create(slug="acme")
        keep(tenant, 30)
        write(tenant, 60, 50, 40, 2, 1)
        remove_old_events(NOW)
        assert verify_chain(tenant) == []
        return tenant

    @pytest.mark.parametrize(
        ("statement", "broken"),
        [
            (r"UPDATE audit_auditcheckpoint SET digest = '\x00'", [3, 4]),
            ("UPDATE audit_auditcheckpoint SET sequence = 2", [2, 3]),
            ("UPDATE audit_auditcheckpoint SET removed_before = now()", [3]),
            ("UPDATE audit_auditcheckpoint SET events_removed = 7", [3]),
            ("DELETE FROM audit_auditcheckpoint", [1, 2, 3]),
            ("DELETE FROM audit_auditevent WHERE sequence = 4", [4]),
            ("DELETE FROM audit_auditevent WHERE sequence = 6", [3]),
            ("UPDATE audit_auditevent SET action = 'x' WHERE sequence = 4", [4]),
            (
                """INSERT INTO audit_auditevent SELECT uuidv7(), 2, at, actor_label, action, object_type, object_id,
                object_label, changes, client_ip, previous_digest, digest, actor_id, tenant_id
                FROM audit_auditevent WHERE sequence = 4""",
                [2],
            ),
        ],
    )
    def test_it_shows_after_a_removal_as_before(
        self, cut: Tenant, as_owner: Callable[[str], None], statement: str, broken: list[int]
    ) -> None:
        as_owner(statement)
        assert verify_chain(cut) == broken

    def test_a_chain_that_is_broken_in_what_would_go_is_left_as_it_is(
        self, as_owner: Callable[[str], None], write: Write
    ) -> None:
        tenant = Tenant.objects.create(slug="acme")
        keep(tenant, 30)
        write(tenant, 60, 50, 40, 1)
        as_owner("UPDATE audit_auditevent SET action = 'x' WHERE sequence = 2")
        assert remove_old_events(NOW) == {"events": 0, "chains": 0, "broken": [str(tenant.pk)]}
        assert (AuditEvent.objects.count(), verify_chain(tenant)) == (4, [2])
        with pytest.raises(CommandError, match="verify_audit"):
            call_command("audit_retention", stdout=StringIO())

    def test_the_function_leaves_a_chain_with_a_gap(self, as_owner: Callable[[str], None], write: Write) -> None:
        tenant = Tenant.objects.create(slug="acme")
        write(tenant, 60, 50, 40, 1)
        as_owner("DELETE FROM audit_auditevent WHERE sequence = 2")
        with pytest.raises(Error, match="left as it is"), connection.cursor() as cursor:
            cursor.execute(TestTheDatabaseItself.REMOVE, [tenant.pk, NOW - timedelta(days=30)])


def test_events_written_and_removed_at_the_same_time_make_one_chain(
    real_commits: Database, actor: Actor, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "EVENTS_AT_A_TIME", 5)
    tenant = Tenant.objects.create(slug="acme")
    keep(tenant, 30)
    write(tenant, *[50] * 40)
    start = threading.Barrier(6)

    def work(number: int) -> int:
        try:
            start.wait(30)
            if number < 2:
                return int(remove_old_events(NOW)["events"])
            for _ in range(10):
                with transaction.atomic():
                    record(actor, Action.TENANT_CHANGED, None, tenant=tenant, changes={"days": [None, 0]})
            return 0
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        removed = sum(pool.map(work, range(6)))
    assert removed in {39, 40}  # the newest at that moment stays
    assert verify_chain(tenant) == []
    assert len(acts(tenant)) == 40 + 40 - removed


class TestCommands:
    def verify(self, *arguments: str) -> str:
        out = StringIO()
        call_command("verify_audit", *arguments, stdout=out)
        return out.getvalue()

    def test_old_events_are_removed_by_hand(self, tenant: Tenant, write: Write) -> None:
        keep(tenant, 30)
        write(tenant, 50, 1)
        out = StringIO()
        call_command("audit_retention", stdout=out)
        assert out.getvalue() == "1 events of 1 chains removed.\n"

    def test_every_chain_is_proven_from_its_checkpoint_on(
        self, tenant: Tenant, other_tenant: Tenant, write: Write
    ) -> None:
        keep(tenant, 30)
        write(tenant, 50, 40, 1)
        write(other_tenant, 50)
        write(None, 50)
        remove_old_events(NOW)
        lines = self.verify().splitlines()
        assert [line.partition(" (")[0] for line in lines] == [
            "the installation: 1 events: whole, up to 1",
            "acme: 2 events, 2 before them removed: whole, up to 4",
            "umbrella: 1 events: whole, up to 1",
        ]

    def test_the_newest_digest_can_be_kept_elsewhere(self, tenant: Tenant, write: Write) -> None:
        write(tenant, 2, 1)
        (chain,) = json.loads(self.verify("--tenant", "acme", "--json"))
        digest = bytes(AuditEvent.objects.get(sequence=2).digest).hex()
        assert chain == {"tenant": "acme", "events": 2, "removed": 0, "last": 2, "digest": digest, "broken": []}

    def test_an_empty_trail_is_no_fault(self, db: None) -> None:
        assert self.verify() == "There are no events.\n"

    def test_a_broken_chain_fails_the_command(self, tenant: Tenant, write: Write, actor: Actor) -> None:
        write(tenant, 1)
        AuditEvent.objects.create(
            tenant=tenant, sequence=2, at=NOW, actor_label="forger", action="tenant.changed", object_type="",
            object_id="", digest=b"1", previous_digest=b"2",
        )  # fmt: skip
        out = StringIO()
        with pytest.raises(CommandError, match="1 of 1 chains are broken"):
            call_command("verify_audit", stdout=out)
        assert "acme: 2 events: BROKEN at 2." in out.getvalue()
