"""``create_tenant``, ``issue_token``, ``revoke_token``."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError

from audit.models import AuditEvent
from tenants.models import ApiToken, Project, Tenant
from tenants.tokens import Peppers, matches, well_formed

pytestmark = pytest.mark.django_db


def run(*arguments: str, **options: Any) -> tuple[str, str]:
    """(standard output, standard error) of a command."""
    out, err = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


@pytest.fixture
def acme() -> Tenant:
    run("create_tenant", "acme", "--project", "web")
    return Tenant.objects.get(slug="acme")


ISSUE = ("issue_token", "--tenant", "acme", "--project", "web", "--name", "ci")


def test_create_tenant_with_its_first_project() -> None:
    out, _ = run("create_tenant", "acme", "--name", "Acme Inc.", "--project", "web")
    assert out == "Created tenant acme with project web.\n"
    assert Tenant.objects.get(slug="acme").name == "Acme Inc."
    assert Project.objects.get(tenant__slug="acme").slug == "web"
    assert set(AuditEvent.objects.values_list("actor_label", flat=True)) == {"manage.py create_tenant"}


def test_create_tenant_as_json() -> None:
    out, _ = run("create_tenant", "acme", "--json")
    assert json.loads(out) == {"id": str(Tenant.objects.get().pk), "slug": "acme", "project": None}


@pytest.mark.parametrize("slug", ["acme", "Not A Slug", ""])
def test_create_tenant_refuses_a_taken_or_bad_slug(acme: Tenant, slug: str) -> None:
    with pytest.raises(CommandError, match="slug"):
        run("create_tenant", slug)
    assert Tenant.objects.count() == 1


def test_a_bad_project_leaves_no_tenant_behind() -> None:
    with pytest.raises(CommandError):
        run("create_tenant", "acme", "--project", "Bad Slug")
    assert not Tenant.objects.exists()


def test_issue_token_prints_the_token_alone_on_standard_output(acme: Tenant) -> None:
    out, err = run(*ISSUE)
    text = out.strip()
    assert well_formed(text)
    assert "shown only now" in err
    assert text not in err
    token = ApiToken.objects.get()
    assert matches(text, bytes(token.digest), Peppers.parse(settings.TOKEN_PEPPERS)[token.pepper_number])
    assert (token.scopes, token.allowed_models, token.expires_at) == (["inference"], ["*"], None)


def test_issue_token_as_json_with_everything(acme: Tenant) -> None:
    out, _ = run(
        *ISSUE,
        *("--models", "small", "gpt-*", "--scope", "inference", "--scope", "management", "--cidr", "10.0.0.0/8"),
        *("--rpm", "60", "--expires", "30d", "--json"),
    )
    issued, token = json.loads(out), ApiToken.objects.get()
    assert well_formed(issued["token"])
    assert issued["id"] == str(token.pk)
    assert issued["models"] == token.allowed_models == ["small", "gpt-*"]
    assert issued["scopes"] == token.scopes == ["inference", "management"]
    assert (token.allowed_cidrs, token.requests_per_minute) == (["10.0.0.0/8"], 60)
    assert token.expires_at is not None
    assert abs(token.expires_at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)


def test_issue_token_takes_a_value_from_the_environment(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATED", "a-token-that-was-made-elsewhere")
    assert run(*ISSUE, "--value-env", "MIGRATED")[0].strip() == "a-token-that-was-made-elsewhere"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (("--value-env", "NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE is not set"),
        (("--tenant", "nobody"), "There is no tenant 'nobody'"),
        (("--project", "nowhere"), "There is no project 'nowhere' in acme"),
        (("--expires", "soon"), "must be a date or time"),
        (("--cidr", "10.0.0.0/99"), "10.0.0.0/99"),
    ],
)
def test_issue_token_says_what_is_wrong_in_one_line(acme: Tenant, extra: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        run(*ISSUE, *extra)
    assert not ApiToken.objects.exists()


def test_two_live_tokens_of_one_name_are_refused(acme: Tenant) -> None:
    run(*ISSUE)
    with pytest.raises(CommandError):
        run(*ISSUE)
    assert ApiToken.objects.count() == 1


@pytest.mark.parametrize("by_id", [True, False])
def test_revoke_token_by_id_or_by_name(acme: Tenant, by_id: bool) -> None:
    run(*ISSUE)
    token = ApiToken.objects.get()
    run("revoke_token", *((str(token.pk),) if by_id else ("--tenant", "acme", "--name", "ci")))
    token.refresh_from_db()
    assert token.status == "revoked"
    assert AuditEvent.objects.filter(actor_label="manage.py revoke_token", object_id=str(token.pk)).exists()


def test_revoke_token_needs_to_know_which(acme: Tenant) -> None:
    run("create_tenant", "rival", "--project", "web")
    Project.objects.create(tenant=acme, slug="app")
    run(*ISSUE)
    run("issue_token", "--tenant", "acme", "--project", "app", "--name", "ci")
    with pytest.raises(CommandError, match="Several projects"):
        run("revoke_token", "--tenant", "acme", "--name", "ci")
    with pytest.raises(CommandError, match="no such token"):
        run("revoke_token", "--tenant", "rival", "--name", "ci")
    with pytest.raises(CommandError, match="an id, or --tenant and --name"):
        run("revoke_token")
    assert not ApiToken.objects.exclude(revoked_at=None).exists()
