"""``doctor``: what is wrong, and what to do about it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from audit.record import Actor
from billing.models import PriceVersion
from gateway.diagnosis import Finding, Level, examine
from gateway.models import Model, Provider, ProviderKey, RequestContent
from tenants.crypto import generate_key
from tenants.models import ApiToken, Project, Tenant, User

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


@pytest.fixture(autouse=True)
def operator(db: None) -> Iterator[User]:
    return User.objects.create(email="olga@example.com", is_staff=True, is_superuser=True)


@pytest.fixture
def lab() -> Provider:
    provider = Provider.objects.create(name="lab", kind="openai")
    provider.set_key("sk-lab", Actor(label="test"))
    return provider


def found(subject: str) -> Finding:
    (finding,) = [finding for finding in examine() if finding.subject == subject]
    return finding


def levels() -> dict[str, Level]:
    return {finding.subject: finding.level for finding in examine()}


def test_a_sound_installation_has_nothing_to_fail_for() -> None:
    found_levels = levels()
    assert Level.FAIL not in found_levels.values()
    assert {"python", "database", "owner database", "migrations", "redis", "partitions", "data directory"} <= {
        subject for subject, level in found_levels.items() if level is Level.OK
    }


def test_the_role_is_named_and_a_mighty_one_is_warned_about() -> None:
    assert "as pointsman_system" in found("database").message
    assert "as pointsman_owner" in found("owner database").message


def test_every_finding_that_is_not_ok_says_what_to_do(lab: Provider) -> None:
    ProviderKey.objects.update(ciphertext=b"\x01" + b"\0" * 60)
    User.objects.all().delete()
    assert all(finding.next_step for finding in examine() if finding.level is not Level.OK)


def test_provider_keys_that_cannot_be_decrypted_are_counted(lab: Provider, settings: Settings) -> None:
    assert found("master keys").level is Level.OK
    settings.MASTER_KEYS = f"9:{generate_key()}"
    finding = found("master keys")
    assert finding.level is Level.FAIL
    assert "1 providers cannot be decrypted: lab" in finding.message


def test_keys_under_an_older_master_key_call_for_rotation(lab: Provider, settings: Settings) -> None:
    settings.MASTER_KEYS = f"2:{generate_key()},{settings.MASTER_KEYS}"
    finding = found("master keys")
    assert finding.level is Level.WARN
    assert "rotate_master_key" in finding.next_step


@pytest.mark.parametrize("setting", ["MASTER_KEYS", "TOKEN_PEPPERS"])
def test_unreadable_secrets_fail_without_being_shown(settings: Settings, setting: str) -> None:
    setattr(settings, setting, "1:not-base64-but-secret")
    shown = " ".join(f"{finding.message} {finding.next_step}" for finding in examine())
    assert Level.FAIL in levels().values()
    assert "not-base64-but-secret" not in shown


def test_tokens_under_an_unknown_pepper_fail() -> None:
    tenant = Tenant.objects.create(slug="acme")
    ApiToken.objects.create(
        tenant=tenant, project=Project.objects.create(tenant=tenant, slug="web"), name="ci", digest=b"d" * 32,
        pepper_number=9,
    )  # fmt: skip
    assert "not configured: [9]" in found("peppers").message
    assert found("peppers").level is Level.FAIL


def test_an_installation_without_operators_fails() -> None:
    User.objects.all().delete()
    assert found("operators").level is Level.FAIL


def test_providers_are_told_apart_by_what_is_missing(lab: Provider) -> None:
    Provider.objects.create(name="keyless", kind="groq")
    Provider.objects.create(name="broken", kind="ollama", check_status=Provider.Status.FAILING)
    messages = [finding.message for finding in examine() if finding.subject == "providers"]
    assert messages == ["1 without a key: keyless", "1 failed their last check: broken", "1 were never checked: lab"]


def test_models_without_a_price_are_named(lab: Provider) -> None:
    Tenant.objects.create(slug="acme")
    model = Model.objects.create(name="odd", provider=lab, vendor_model="no-such-vendor-model")
    assert "1 without a price: acme/odd" in found("models").message
    PriceVersion.objects.create(model=model, effective_from=datetime.now(UTC), input=1, output=1)
    assert found("models").level is Level.OK


def test_rows_of_a_month_without_a_partition_are_warned_about() -> None:
    tenant = Tenant.objects.create(slug="acme")
    RequestContent.objects.create(request_id=UUID(int=1), tenant=tenant, ciphertext=b"", master_key_number=1)
    finding = found("partitions")
    assert finding.level is Level.WARN
    assert "gateway_requestcontent" in finding.message


def test_redis_that_is_away_is_a_warning_as_it_is_only_an_accelerator(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert found("redis").level is Level.WARN


def test_a_data_directory_that_cannot_be_written_fails(settings: Settings, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path / "missing"
    assert found("data directory").level is Level.FAIL


def test_a_spool_that_takes_nothing_is_told(settings: Settings, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    (tmp_path / "spool").touch()
    assert found("spool").level is Level.FAIL
    (tmp_path / "spool").unlink()
    assert "spool" not in levels()


def test_bad_settings_are_named(settings: Settings) -> None:
    settings.DEBUG = True
    settings.ALLOWED_UPSTREAMS = ["10.0.0.0/99"]
    findings = [finding for finding in examine() if finding.subject == "settings"]
    assert [finding.level for finding in findings] == [Level.WARN, Level.FAIL]


def run(*arguments: str) -> tuple[str, Any]:
    out = StringIO()
    call_command("doctor", *arguments, stdout=out)
    return out.getvalue(), json.loads(out.getvalue()) if "--json" in arguments else None


def test_the_command_prints_a_line_each_and_the_next_step() -> None:
    out, _ = run()
    assert "ok    database: PostgreSQL" in out
    assert "warn  providers: There is none.\n      -> Declare one with `manage.py apply`." in out


def test_the_command_speaks_json() -> None:
    _, findings = run("--json")
    assert {"subject", "level", "message", "next_step"} == set(findings[0])


def test_the_command_exits_with_1_when_something_fails() -> None:
    User.objects.all().delete()
    with pytest.raises(CommandError, match=r"^1 check failed\.$"):
        run()
