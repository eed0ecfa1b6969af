from datetime import timedelta

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import AuditEvent
from audit.record import Actor, verify_chain
from tenants.crypto import generate_key
from tenants.models import ApiToken, Membership, Project, Tenant, User
from tenants.tokens import Peppers, matches, well_formed

GIVEN = "brought-along-from-elsewhere-1"


def actions(tenant: Tenant) -> list[str]:
    return list(AuditEvent.objects.filter(tenant=tenant).order_by("sequence").values_list("action", flat=True))


def issue(project: Project, actor: Actor, **terms: object) -> tuple[ApiToken, str]:
    return ApiToken.issue(**{"tenant": project.tenant, "project": project, "name": "ci", "actor": actor} | terms)


@pytest.mark.parametrize("slug", ["a", "acme", "acme-2", "0" * 63])
def test_a_slug_of_letters_digits_and_hyphens_is_accepted(slug: str) -> None:
    Tenant(slug=slug).full_clean(validate_unique=False, validate_constraints=False)


@pytest.mark.parametrize("slug", ["", "Acme", "-acme", "acme-", "a b", "a_b", "ü", "0" * 64, "acme\n"])
def test_any_other_slug_is_refused(slug: str) -> None:
    with pytest.raises(ValidationError, match="slug"):
        Tenant(slug=slug).full_clean(validate_unique=False, validate_constraints=False)


def test_a_time_zone_must_exist(tenant: Tenant) -> None:
    tenant.time_zone = "Europe/Nowhere"
    with pytest.raises(ValidationError, match="Not a time zone"):
        tenant.full_clean()


def test_a_member_has_a_project_of_the_same_tenant(other_tenant: Tenant, project: Project, operator: User) -> None:
    with pytest.raises(ValidationError, match="another tenant"):
        Membership(tenant=other_tenant, user=operator, project=project, role="viewer").full_clean()


def test_an_issued_token_is_stored_as_a_digest_only(project: Project, actor: Actor) -> None:
    token, text = issue(project, actor)
    token.refresh_from_db()

    assert well_formed(text)
    assert matches(text, bytes(token.digest), Peppers.parse(settings.TOKEN_PEPPERS)[token.pepper_number])
    assert (token.last_four, token.public_id in text, token.status) == (text[-4:], True, "active")
    assert (token.scopes, token.allowed_models, token.allowed_cidrs) == (["inference"], ["*"], [])


def test_issuing_is_audited_without_the_secret(project: Project, operator: User) -> None:
    _, text = issue(project, Actor.person(operator), allowed_models=["small"])
    event = AuditEvent.objects.get()

    assert (event.action, event.actor, event.object_label) == ("token.issued", operator, "ci")
    assert event.changes["allowed_models"] == [None, ["small"]]
    assert text not in str(event.changes)
    assert ApiToken.objects.get().created_by == operator


def test_a_value_may_be_given(project: Project, actor: Actor) -> None:
    token, text = issue(project, actor, value=GIVEN)
    assert (text, token.last_four) == (GIVEN, GIVEN[-4:])


@pytest.mark.parametrize("value", ["", "short", "with space " * 4, "gw_ABCDEFGHIJKL_" + "x" * 43 + "00000000"])
def test_a_given_value_must_be_acceptable(project: Project, actor: Actor, value: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        issue(project, actor, value=value)
    assert "value" in refusal.value.message_dict
    assert not AuditEvent.objects.exists()


def test_a_value_is_a_token_once_and_never_again(project: Project, actor: Actor, settings) -> None:
    token, _ = issue(project, actor, value=GIVEN)
    token.revoke(actor)
    settings.TOKEN_PEPPERS = f"2:{generate_key()},{settings.TOKEN_PEPPERS}"

    with pytest.raises(ValidationError, match="has been, a token"):
        issue(project, actor, name="again", value=GIVEN)


def test_a_new_pepper_is_used_for_new_tokens(project: Project, actor: Actor, settings) -> None:
    settings.TOKEN_PEPPERS = f"2:{generate_key()},{settings.TOKEN_PEPPERS}"
    assert issue(project, actor)[0].pepper_number == 2


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"name": ""}, "name"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"allowed_cidrs": ["10.0.0.0/33"]}, "allowed_cidrs"),
        ({"allowed_models": [" "]}, "allowed_models"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
    ],
)
def test_terms_are_checked(project: Project, actor: Actor, terms: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        issue(project, actor, **terms)
    assert field in refusal.value.message_dict


def test_a_network_may_be_given_by_any_address_in_it(project: Project, actor: Actor) -> None:
    token, _ = issue(project, actor, allowed_cidrs=["10.1.2.3/8", "2001:db8::1"])
    assert token.allowed_cidrs == ["10.0.0.0/8", "2001:db8::1/128"]


def test_the_project_of_another_tenant_is_refused(other_tenant: Tenant, project: Project, actor: Actor) -> None:
    with pytest.raises(ValidationError, match="another tenant"):
        issue(project, actor, tenant=other_tenant)


def test_two_live_tokens_of_one_project_cannot_share_a_name(project: Project, actor: Actor) -> None:
    token, _ = issue(project, actor)
    with pytest.raises(ValidationError, match="of that name already"):
        issue(project, actor)

    token.revoke(actor)
    issue(project, actor)


def test_revoking_is_for_good_and_recorded_once(tenant: Tenant, token: ApiToken, actor: Actor) -> None:
    token.revoke(actor)
    first = token.revoked_at
    token.revoke(actor)
    token.refresh_from_db()

    assert (token.status, token.revoked_at) == ("revoked", first)
    assert actions(tenant) == ["token.issued", "token.revoked"]


def test_revoking_raises_the_tenants_policy_epoch(tenant: Tenant, token: ApiToken, actor: Actor) -> None:
    tenant.refresh_from_db()
    before = tenant.policy_epoch
    token.revoke(actor)
    tenant.refresh_from_db()
    assert tenant.policy_epoch > before


def test_rotating_replaces_a_token_on_the_same_terms(project: Project, actor: Actor) -> None:
    later = timezone.now() + timedelta(days=1)
    terms = {
        "scopes": ["management"],
        "allowed_models": ["gpt-*"],
        "allowed_cidrs": ["10.0.0.0/8"],
        "expires_at": later,
    }
    old, old_text = issue(project, actor, requests_per_minute=7, **terms)

    new, text = old.rotate(actor)

    assert (old.status, new.status) == ("revoked", "active")
    assert text != old_text
    assert new.pk != old.pk
    assert {name: getattr(new, name) for name in terms} == terms
    assert (new.name, new.project, new.requests_per_minute) == ("ci", project, 7)
    assert actions(project.tenant) == ["token.issued", "token.revoked", "token.issued", "token.rotated"]
    assert verify_chain(project.tenant) == []


def test_a_token_that_works_no_more_cannot_be_rotated(project: Project, actor: Actor) -> None:
    expired, _ = issue(project, actor, name="old", expires_at=timezone.now() - timedelta(seconds=1))
    revoked, _ = issue(project, actor)
    revoked.revoke(actor)

    assert (expired.status, revoked.status) == ("expired", "revoked")
    for token in (expired, revoked):
        with pytest.raises(ValidationError, match=token.status):
            token.rotate(actor)


def test_the_database_itself_refuses_a_token_in_a_foreign_project(other_tenant: Tenant, token: ApiToken) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiToken.objects.filter(pk=token.pk).update(tenant=other_tenant)
