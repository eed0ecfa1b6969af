"""``add_provider``, ``check_provider``, ``rotate_master_key``, and the commands as processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from audit.models import AuditEvent
from audit.record import Actor
from billing.models import Attempt, PriceVersion, Settlement
from gateway import installation
from gateway.conformance.vendors import VendorServer
from gateway.models import Model, Provider, ProviderKey
from tenants.crypto import generate_key
from tenants.models import Tenant
from tests.gateway.test_apply import ACME_TOKEN, EXAMPLE
from tests.provision import Database
from tests.warm_python import warm_python

ACTOR = Actor(label="test")


def run(*arguments: str, **options: Any) -> tuple[str, str]:
    """(standard output, standard error) of a command."""
    out, err = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


@pytest.fixture
def acme(db: None) -> Tenant:
    return Tenant.objects.create(slug="acme")


# ------------------------------------------------------------------ add_provider

ADD = ("add_provider", "--name", "lab", "--kind", "openai-compatible", "--base-url", "http://127.0.0.1:9110/v1")


def test_a_provider_is_added_with_its_key_from_the_environment(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-lab")
    out, err = run(*ADD, "--tenant", "acme", "--key-env", "LAB_KEY")
    assert "sk-lab" not in out + err
    provider = Provider.objects.get(tenant=acme, name="lab")
    assert ProviderKey.objects.get(provider=provider).reveal() == "sk-lab"
    assert "manage.py add_provider" in AuditEvent.objects.values_list("actor_label", flat=True)


def test_a_providers_key_is_read_from_standard_input(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("sk-piped\n"))
    run(*ADD, "--key-stdin")
    provider = Provider.objects.get(name="lab")
    assert provider.tenant is None
    assert ProviderKey.objects.get(provider=provider).reveal() == "sk-piped"


def test_a_provider_that_needs_a_key_and_has_none_is_warned_about(acme: Tenant) -> None:
    assert "has no key" in run("add_provider", "--name", "openai", "--kind", "openai")[1]
    assert "has no key" not in run(*ADD)[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tenant", "nobody"), "There is no tenant 'nobody'"),
        (("--key-env", "NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE is not set"),
        (("--kind", "no-such-kind"), "no-such-kind"),
        (("--base-url", "http://10.0.0.1/v1"), "ALLOWED_UPSTREAMS"),
        (("--base-url", ""), "base_url"),
    ],
)
def test_a_provider_that_cannot_be_added_leaves_nothing(acme: Tenant, arguments: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        run(*ADD, *arguments)
    assert not Provider.objects.exists()


# ------------------------------------------------------------------ check_provider


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(keys=["sk-right"]) as server:
        yield server


def add_lab(vendors: VendorServer, key: str = "sk-right", tenant: Tenant | None = None) -> Provider:
    provider = Provider.objects.create(
        tenant=tenant, name="lab", kind="openai-compatible", base_url=f"{vendors.url}/v1"
    )
    provider.set_key(key, ACTOR)
    return provider


@pytest.mark.django_db
def test_a_working_provider_lists_its_models_and_answers(vendors: VendorServer) -> None:
    provider = add_lab(vendors)
    out, _ = run("check_provider", "lab")
    assert out.startswith("models: ")
    assert "answer: " in out
    provider.refresh_from_db()
    assert (provider.check_status, provider.checked_at is not None) == ("ok", True)


@pytest.mark.django_db
def test_a_configured_model_is_asked_first(vendors: VendorServer) -> None:
    provider = add_lab(vendors)
    Model.objects.create(name="small", provider=provider, vendor_model="small-tok3")
    assert json.loads(run("check_provider", "lab", "--json")[0])["model"] == "small-tok3"
    result = json.loads(run("check_provider", "lab", "--model", "other-tok2", "--json")[0])
    assert (result["ok"], result["model"], result["stage"]) == (True, "other-tok2", "answer")


@pytest.mark.django_db
def test_the_question_is_a_line_of_the_ledger(vendors: VendorServer, tenant: Tenant) -> None:
    provider = add_lab(vendors, tenant=tenant)
    model = Model.objects.create(tenant=tenant, name="small", provider=provider, vendor_model="small-tok3")
    price, _ = PriceVersion.set_price(model=model, actor=ACTOR, input="1", output="10")
    run("check_provider", "lab")
    line = Attempt.objects.select_related("settlement").get()
    ended = line.settlement
    assert (line.purpose, line.tenant, line.model, line.project, line.price_version) == (
        "test",
        tenant,
        model,
        None,
        price,
    )
    assert (ended.outcome, ended.usage_source, ended.output_tokens) == ("settled", "vendor", 3)
    assert ended.cost_usd == (ended.input_tokens + 10 * ended.output_tokens) / Decimal(1_000_000)


@pytest.mark.django_db
def test_a_failed_question_is_a_line_that_costs_nothing(vendors: VendorServer) -> None:
    add_lab(vendors, "sk-wrong")
    with pytest.raises(CommandError):
        run("check_provider", "lab", "--model", "any-tok3")
    ended = Settlement.objects.select_related("attempt").get()
    assert (ended.attempt.tenant, ended.attempt.model, ended.attempt.vendor_model) == (None, None, "any-tok3")
    assert (ended.outcome, ended.status_code, ended.output_tokens) == ("failed", 401, 0)


@pytest.mark.django_db
def test_a_refused_key_is_named_as_the_cause_and_remembered(vendors: VendorServer) -> None:
    provider = add_lab(vendors, "sk-wrong")
    Model.objects.create(name="small", provider=provider, vendor_model="small-tok3")
    with pytest.raises(CommandError, match="lab failed at credentials"):
        run("check_provider", "lab")
    provider.refresh_from_db()
    assert provider.check_status == "failing"
    assert "sk-wrong" not in provider.check_message


@pytest.mark.django_db
def test_a_provider_that_is_not_there_fails_to_connect() -> None:
    Provider.objects.create(name="gone", kind="ollama", base_url="http://127.0.0.1:1")
    with pytest.raises(CommandError, match="gone failed at connect"):
        run("check_provider", "gone", "--model", "any")


@pytest.mark.django_db
def test_a_missing_key_is_named_before_anything_is_called() -> None:
    provider = Provider.objects.create(name="openai", kind="openai")
    with pytest.raises(CommandError, match="openai failed at configuration: The provider has no key, and needs one"):
        run("check_provider", "openai")
    provider.refresh_from_db()
    assert (provider.check_status, provider.check_message) == ("failing", "The provider has no key, and needs one.")
    assert not Attempt.objects.exists()


@pytest.mark.django_db
def test_an_unreadable_key_fails_before_anything_is_called(vendors: VendorServer) -> None:
    provider = add_lab(vendors)
    ProviderKey.objects.filter(provider=provider).update(ciphertext=b"\x01" + b"\0" * 60)
    with pytest.raises(CommandError, match="lab failed at configuration: The provider's key cannot be read"):
        run("check_provider", "lab")


def test_the_demo_provider_needs_no_network(db: None) -> None:
    Provider.objects.create(name="demo", kind="demo")
    assert "answer: " in run("check_provider", "demo", "--model", "demo")[0]


def test_an_ambiguous_provider_is_asked_back(acme: Tenant) -> None:
    Provider.objects.create(tenant=acme, name="demo", kind="demo")
    Provider.objects.create(name="demo", kind="demo")
    with pytest.raises(CommandError, match="say which with --tenant"):
        run("check_provider", "demo")
    run("check_provider", "demo", "--tenant", "acme", "--model", "demo")
    with pytest.raises(CommandError, match="There is no provider 'demmo'"):
        run("check_provider", "demmo")


# ------------------------------------------------------------------ rotate_master_key


@pytest.fixture
def generated_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Path:
    """An installation that made its own secrets, in a data directory of this test's own."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    for name in installation.SECRETS:
        monkeypatch.delenv(name)
    settings.MASTER_KEYS = installation.secret("MASTER_KEYS")
    return installation.secrets_path()


def with_key(name: str, secret: str) -> ProviderKey:
    return Provider.objects.create(name=name, kind="openai").set_key(secret, ACTOR)


@pytest.mark.django_db
def test_rotation_makes_a_new_master_key_first_and_moves_every_key(generated_secrets: Path) -> None:
    with_key("one", "sk-one")
    with_key("two", "sk-two")
    before = installation.secret("SECRET_KEY")
    out, err = run("rotate_master_key")
    assert out == "2 provider keys re-encrypted under master key 2.\n"
    assert str(generated_secrets) in err
    assert installation.secret("MASTER_KEYS").startswith("2:")
    assert ",1:" in installation.secret("MASTER_KEYS")
    assert installation.secret("SECRET_KEY") == before
    assert generated_secrets.stat().st_mode & 0o777 == 0o600
    assert {key.master_key_number for key in ProviderKey.objects.all()} == {2}
    assert {key.reveal() for key in ProviderKey.objects.all()} == {"sk-one", "sk-two"}


@pytest.mark.django_db
def test_an_interrupted_rotation_is_finished_before_another_begins(generated_secrets: Path, settings: Settings) -> None:
    with_key("one", "sk-one")
    settings.MASTER_KEYS = f"2:{generate_key()},{settings.MASTER_KEYS}"
    installation.replace_secret("MASTER_KEYS", settings.MASTER_KEYS)
    out, err = run("rotate_master_key")
    assert out == "1 provider keys re-encrypted under master key 2.\n"
    assert "finished an earlier rotation" in err
    assert installation.secret("MASTER_KEYS") == settings.MASTER_KEYS


@pytest.mark.django_db
def test_keys_from_the_environment_are_rotated_by_the_operator(settings: Settings) -> None:
    key = with_key("one", "sk-one")
    settings.MASTER_KEYS = f"7:{generate_key()},{settings.MASTER_KEYS}"
    out, err = run("rotate_master_key")
    assert out == "1 provider keys re-encrypted under master key 7.\n"
    assert "MASTER_KEYS come from your environment" in err
    key.refresh_from_db()
    assert (key.master_key_number, key.reveal()) == (7, "sk-one")


# ------------------------------------------------------------------ as processes


def manage(database: Database, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    whole = os.environ | database.environment() | environment
    return warm_python.run("manage", arguments, environment=whole, timeout_s=60)


def test_the_documented_example_is_applied_from_a_shell(fresh_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(EXAMPLE)
    first = manage(fresh_database, "apply", str(path), ACME_TOKEN=ACME_TOKEN)
    assert (first.returncode, first.stderr.count("warning:")) == (0, 1)
    assert "Applied: 10 created, 0 changed." in first.stdout
    again = manage(fresh_database, "apply", str(path), ACME_TOKEN=ACME_TOKEN)
    assert (again.returncode, again.stdout) == (0, "Nothing to change: everything is as declared.\n")


def test_a_refused_file_exits_with_1_and_no_traceback(fresh_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("tenants:\n  - {slug: acme, nmae: x}\n")
    refused = manage(fresh_database, "apply", str(path))
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"{path}:2: unknown key 'nmae' in a tenant; did you mean 'name'?",
        "CommandError: 1 problem; nothing was applied.",
    ]


def test_a_database_that_is_away_is_one_clear_line(fresh_database: Database) -> None:
    gone = Database("gone", "postgresql://nobody@127.0.0.1:1/gone", "postgresql://nobody@127.0.0.1:1/gone")
    failed = manage(gone, "create_tenant", "acme")
    assert failed.returncode == 1
    assert failed.stderr.startswith("CommandError: The database refuses: ")
    assert len(failed.stderr.splitlines()) == 1


def test_a_token_is_all_that_standard_output_carries(fresh_database: Database) -> None:
    manage(fresh_database, "create_tenant", "acme", "--project", "web")
    issued = manage(fresh_database, "issue_token", "--tenant", "acme", "--project", "web", "--name", "ci")
    assert issued.stdout.startswith("gw_")
    assert len(issued.stdout.split()) == 1
