"""The wall in the database, tried from inside for every table a tenant owns rows of."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from decimal import Decimal

import pytest
from django.apps import apps
from django.db import DatabaseError, IntegrityError, ProgrammingError, connection, models, transaction
from pytest_django import DjangoDbBlocker

from audit.actions import Action
from audit.models import AuditCheckpoint, AuditEvent
from audit.record import Actor, record, verify_chain
from billing.models import (
    Adjustment,
    AlertRule,
    Attempt,
    Budget,
    BudgetPeriod,
    MeterEvent,
    Plan,
    PriceVersion,
    RateLimit,
    Settlement,
    Subscription,
    UsageHour,
    UsageHourTag,
    UsageHourUser,
    UsageReport,
)
from gateway.models import Model, Provider, ProviderKey, RequestContent, RequestLog
from gateway.rows import TenantForeignKey, new_id
from routing.models import (
    BankedConversation,
    Decision,
    DriftWatch,
    ExperimentEvidence,
    JudgeSample,
    Label,
    PublishedScore,
    ReplayVerdict,
    RouterState,
    StrategyChoice,
    WeightSnapshot,
)
from tenants.isolation import acting_as_tenant
from tenants.models import ApiToken, Project, Tenant
from tests.tenants.household import Household


def is_owned(model: type[models.Model]) -> bool:
    return any(field.name == "tenant" for field in model._meta.concrete_fields)


OWNED = [model for model in apps.get_models() if is_owned(model)]
CLOSED = (JudgeSample,)  # on its way to a job, and no page's business
OPEN = [model for model in OWNED if model not in CLOSED]
LOGS = (RequestLog, RequestContent)  # written in bulk off the caller's path, without constraints
SUMS = (UsageHour, UsageHourTag, UsageHourUser)  # hold keys rather than references
APPEND_ONLY = (Attempt, Settlement, Adjustment, PriceVersion, AuditEvent)
FINDINGS = (
    Decision, Label, RouterState, WeightSnapshot, ExperimentEvidence, BankedConversation, ReplayVerdict, DriftWatch,
    UsageReport, MeterEvent, AuditCheckpoint,
)  # fmt: skip


@pytest.fixture(scope="module")
def households(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[tuple[Household, Household]]:
    """Both, made once: every test works in a savepoint of the transaction that holds them."""
    actor = Actor("tests")
    with django_db_blocker.unblock(), transaction.atomic():
        yield Household("acme", actor), Household("umbrella", actor)
        transaction.set_rollback(True)


@pytest.fixture
def ours(households: tuple[Household, Household], db: None) -> Household:
    """A copy, as some tests change what they hold."""
    return deepcopy(households[0])


@pytest.fixture
def theirs(households: tuple[Household, Household], db: None) -> Household:
    return deepcopy(households[1])


def refused(act: Callable[[], object]) -> bool:
    """Whether the database stops it (a refusal ends the transaction, hence the savepoint)."""
    try:
        with transaction.atomic():
            act()
    except DatabaseError:
        return True
    return False


def test_every_owned_table_is_tried(ours: Household) -> None:
    assert {model.__name__ for model in OWNED} >= {"Project", "ApiToken", "ProviderKey", "Attempt", "AuditEvent"}
    for model in OWNED:
        assert model.objects.filter(tenant=ours.tenant).exists(), model


@pytest.mark.parametrize("model", OPEN, ids=lambda model: model.__name__)
class TestInside:
    def test_ones_own_rows_are_seen(self, ours: Household, theirs: Household, model: type[models.Model]) -> None:
        with acting_as_tenant(ours.tenant.pk):
            assert {row.tenant_id for row in model.objects.all()} == {ours.tenant.pk}

    def test_nobody_elses_row_is_seen_even_by_its_key(
        self, ours: Household, theirs: Household, model: type[models.Model]
    ) -> None:
        foreign = model.objects.filter(tenant=theirs.tenant).first()
        with acting_as_tenant(ours.tenant.pk):
            assert not model.objects.filter(pk=foreign.pk).exists()

    def test_nobody_elses_row_is_changed(self, ours: Household, theirs: Household, model: type[models.Model]) -> None:
        foreign = model.objects.filter(tenant=theirs.tenant).first()
        field = next(field.attname for field in model._meta.concrete_fields if not field.primary_key)
        rows = model.objects.filter(pk=foreign.pk)
        with acting_as_tenant(ours.tenant.pk):
            changed = []
            assert refused(lambda: changed.append(rows.update(**{field: getattr(foreign, field)}))) or changed == [0]

    def test_nobody_elses_row_is_deleted(self, ours: Household, theirs: Household, model: type[models.Model]) -> None:
        foreign = model.objects.filter(tenant=theirs.tenant).first()
        with acting_as_tenant(ours.tenant.pk):
            refused(lambda: model.objects.filter(pk=foreign.pk)._raw_delete("default"))
        assert model.objects.filter(pk=foreign.pk).exists()

    def test_no_row_is_made_for_somebody_else(
        self, ours: Household, theirs: Household, model: type[models.Model]
    ) -> None:
        copy = model.objects.filter(tenant=theirs.tenant).first()
        copy.pk, copy._state.adding = new_id(), True
        refusal = pytest.raises(ProgrammingError, match=r"row-level security|permission denied")
        with acting_as_tenant(ours.tenant.pk), refusal, transaction.atomic():
            copy.save(force_insert=True)

    def test_without_a_tenant_nothing_is_seen(self, ours: Household, model: type[models.Model]) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL ROLE pointsman_tenant")
            assert not model.objects.exists()
            cursor.execute("RESET ROLE")


def test_what_is_offered_to_all_can_be_read_and_not_changed(ours: Household, actor: Actor) -> None:
    shared = Provider.objects.create(name="shared", kind="openai")
    with acting_as_tenant(ours.tenant.pk):
        assert Provider.objects.filter(pk=shared.pk).exists()
        assert Provider.objects.filter(pk=shared.pk).update(enabled=False) == 0
        assert refused(lambda: Provider.objects.create(name="mine for all", kind="openai"))


def test_published_scores_of_the_installation_are_read_and_not_changed(ours: Household) -> None:
    shared = PublishedScore.objects.create(vendor_model_pattern="*", quality=0.5, source="tests")
    with acting_as_tenant(ours.tenant.pk):
        assert PublishedScore.objects.filter(pk=shared.pk).exists()
        assert PublishedScore.objects.filter(pk=shared.pk).update(quality=1) == 0
        assert refused(lambda: PublishedScore.objects.create(vendor_model_pattern="m", quality=1, source="tests"))


def test_the_other_tenants_themselves_are_not_seen(ours: Household, theirs: Household) -> None:
    with acting_as_tenant(ours.tenant.pk):
        assert list(Tenant.objects.all()) == [ours.tenant]
        assert Tenant.objects.filter(pk=theirs.tenant.pk).update(name="x") == 0


def test_tables_without_a_tenant_are_closed(ours: Household) -> None:
    with acting_as_tenant(ours.tenant.pk):
        for table in (
            "billing_gatewayprocess", "audit_jobrun", "django_session",
            "django_migrations", "auth_group",
        ):  # fmt: skip
            with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
                connection.cursor().execute(f"SELECT * FROM {table}")


@pytest.mark.parametrize("model", CLOSED, ids=lambda model: model.__name__)
def test_what_waits_for_a_job_is_closed_to_its_own_tenant(ours: Household, model: type[models.Model]) -> None:
    row = model.objects.get(tenant=ours.tenant)
    with acting_as_tenant(ours.tenant.pk):
        assert refused(model.objects.exists)
        assert refused(lambda: model.objects.update(tenant=ours.tenant))
        assert refused(model.objects.all().delete)
        assert refused(lambda: row.save(force_insert=True))
    assert model.objects.filter(tenant=ours.tenant).exists()


def test_a_tenant_acts_and_is_audited_inside(ours: Household, actor: Actor) -> None:
    with acting_as_tenant(ours.tenant.pk):
        _, text = ours.token.rotate(actor)
        ours.provider.set_key("sk-new", actor)
        ours.provider.change_base_url("https://elsewhere.example", actor)
        assert verify_chain(ours.tenant) == []
    assert text.startswith("gw_")


def test_the_installations_trail_cannot_be_written_from_inside(ours: Household, actor: Actor) -> None:
    with acting_as_tenant(ours.tenant.pk):
        assert refused(lambda: record(actor, Action.MASTER_KEY_ROTATED, None, tenant=None))


def current_role() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, current_setting('app.tenant_id', true)")
        role, tenant = cursor.fetchone()
    return f"{role} {tenant}"


def test_the_block_ends_as_it_began(ours: Household, theirs: Household) -> None:
    before = current_role()
    with acting_as_tenant(ours.tenant.pk):
        inside = current_role()
        with acting_as_tenant(theirs.tenant.pk):
            assert current_role() != inside
        assert current_role() == inside
    assert current_role().strip() == before.replace("None", "").strip()


def test_an_exception_leaves_it_too(ours: Household) -> None:
    before = current_role()
    with pytest.raises(IntegrityError), acting_as_tenant(ours.tenant.pk):
        Project.objects.create(tenant=ours.tenant, slug="web")
    assert current_role() == before


def make_unlike_any(row: models.Model) -> None:
    """So that no other guarantee than that of its reference stops it."""
    if isinstance(row, ApiToken):
        row.digest = b"another"
    if isinstance(row, StrategyChoice):
        row.project = row.token = None
    for name in ("name", "model_name"):
        if hasattr(row, name):
            setattr(row, name, "another")


@pytest.mark.parametrize(
    ("model", "field"),
    [(m, f) for m in OWNED if m not in LOGS for f in m._meta.concrete_fields if isinstance(f, TenantForeignKey)],
    ids=str,
)
def test_a_reference_across_tenants_is_refused(
    ours: Household, theirs: Household, model: type[models.Model], field: TenantForeignKey
) -> None:
    row = model.objects.filter(tenant=ours.tenant).first()
    foreign = field.remote_field.model.objects.filter(tenant=theirs.tenant).first()
    row.pk, row._state.adding = new_id(), True
    make_unlike_any(row)
    ExperimentEvidence.objects.filter(tenant=theirs.tenant).delete()  # there is one of each experiment
    setattr(row, field.name, foreign)
    with pytest.raises(IntegrityError, match="_tenant_fk"), transaction.atomic():
        row.save(force_insert=True)


@pytest.mark.parametrize(
    ("model", "field", "target"), [(Model, "provider", Provider), (ProviderKey, "provider", Provider)]
)
def test_a_provider_of_another_tenant_is_refused(
    ours: Household, theirs: Household, model: type[models.Model], field: str, target: type[models.Model]
) -> None:
    foreign = target.objects.get(tenant=theirs.tenant)
    with pytest.raises(IntegrityError, match="another tenant"), transaction.atomic():
        model.objects.filter(tenant=ours.tenant).update(**{field: foreign})


@pytest.mark.parametrize(("model", "field"), [(BudgetPeriod, "budget"), (AlertRule, "budget")], ids=str)
def test_a_budget_of_another_tenant_is_refused(
    ours: Household, theirs: Household, model: type[models.Model], field: str
) -> None:
    with pytest.raises(IntegrityError, match="another tenant"), transaction.atomic():
        model.objects.filter(tenant=ours.tenant).update(**{field: theirs.budget})


@pytest.mark.parametrize("model", SUMS, ids=lambda model: model.__name__)
def test_sums_are_seen_by_their_tenant_and_written_by_none(
    ours: Household, theirs: Household, model: type[models.Model]
) -> None:
    with acting_as_tenant(ours.tenant.pk):
        assert [row.tenant_id for row in model.objects.all()] == [ours.tenant.pk]
        assert refused(lambda: model.objects.update(cost_usd=0))


@pytest.mark.parametrize("model", FINDINGS, ids=lambda model: model.__name__)
def test_what_was_found_is_written_by_no_tenant(ours: Household, model: type[models.Model]) -> None:
    with acting_as_tenant(ours.tenant.pk):
        assert refused(lambda: model.objects.update(tenant=ours.tenant))
        assert refused(lambda: model.objects.filter(tenant=ours.tenant)._raw_delete("default"))
    assert model.objects.filter(tenant=ours.tenant).exists()


@pytest.mark.parametrize("model", [Budget, BudgetPeriod, RateLimit, Subscription], ids=lambda model: model.__name__)
def test_nobody_lifts_their_own_limits_from_inside(ours: Household, model: type[models.Model]) -> None:
    with acting_as_tenant(ours.tenant.pk):
        assert refused(lambda: model.objects.update(tenant=ours.tenant))
        assert refused(lambda: model.objects.filter(tenant=ours.tenant)._raw_delete("default"))
    assert model.objects.filter(tenant=ours.tenant).exists()


def test_plans_are_read_by_all_and_written_by_no_tenant(ours: Household) -> None:
    with acting_as_tenant(ours.tenant.pk):
        assert Plan.objects.get().name == "team"
        assert refused(lambda: Plan.objects.update(overage=True))


def test_budgets_of_the_installation_are_not_a_tenants_business(ours: Household) -> None:
    Budget.objects.create(name="everything", scope="installation", metric="usd", cap=Decimal(9))
    with acting_as_tenant(ours.tenant.pk):
        assert [budget.name for budget in Budget.objects.all()] == ["month"]


@pytest.mark.parametrize("model", APPEND_ONLY, ids=lambda model: model.__name__)
def test_append_only_tables_refuse_the_gateway_itself(ours: Household, model: type[models.Model]) -> None:
    table = model._meta.db_table
    key = model._meta.pk.column
    for statement in (f"UPDATE {table} SET {key} = {key}", f"DELETE FROM {table}"):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            connection.cursor().execute(statement)
