from itertools import pairwise

import pytest

from tenants.roles import (
    ROLE_PERMISSIONS,
    SCOPE_PERMISSIONS,
    Permission,
    Role,
    Scope,
    may_appoint,
    role_allows,
    scopes_allow,
)


def test_each_role_may_do_all_that_the_next_one_may_and_more() -> None:
    for role, lesser in pairwise(Role):
        assert ROLE_PERMISSIONS[role] > ROLE_PERMISSIONS[lesser]


def test_every_role_and_scope_has_its_permissions() -> None:
    assert set(ROLE_PERMISSIONS) == set(Role)
    assert set(SCOPE_PERMISSIONS) == set(Scope)


def test_an_owner_may_do_everything() -> None:
    assert all(role_allows(Role.OWNER, permission) for permission in Permission)


def test_a_viewer_sees_neither_prompts_nor_the_audit_log() -> None:
    assert ROLE_PERMISSIONS[Role.VIEWER] == {Permission.VIEW}


@pytest.mark.parametrize(
    "permission",
    [Permission.MANAGE_PROVIDERS, Permission.MANAGE_BUDGETS, Permission.MANAGE_MEMBERS, Permission.MANAGE_TENANT],
)
def test_a_developer_touches_neither_vendor_keys_nor_money_nor_people(permission: Permission) -> None:
    assert not role_allows(Role.DEVELOPER, permission)
    assert role_allows(Role.ADMIN, permission)


@pytest.mark.parametrize("permission", [Permission.MANAGE_BILLING, Permission.OWN_TENANT])
def test_only_an_owner_pays_and_gives_the_tenant_away(permission: Permission) -> None:
    assert [role for role in Role if role_allows(role, permission)] == [Role.OWNER]


def test_an_inference_token_manages_nothing_and_a_management_token_spends_nothing() -> None:
    assert [p for p in Permission if scopes_allow([Scope.INFERENCE], p)] == [Permission.USE_MODELS]
    assert not scopes_allow([Scope.MANAGEMENT], Permission.USE_MODELS)
    assert scopes_allow([Scope.INFERENCE, Scope.MANAGEMENT], Permission.USE_MODELS)
    assert scopes_allow([Scope.INFERENCE, Scope.MANAGEMENT], Permission.MANAGE_BUDGETS)
    assert not scopes_allow([], Permission.VIEW)


def test_a_token_can_never_own_a_tenant() -> None:
    assert not scopes_allow(Scope, Permission.OWN_TENANT)


@pytest.mark.parametrize(
    ("actor", "appointable"),
    [
        (Role.OWNER, set(Role)),
        (Role.ADMIN, {Role.ADMIN, Role.DEVELOPER, Role.VIEWER}),
        (Role.DEVELOPER, set()),
        (Role.VIEWER, set()),
    ],
)
def test_nobody_appoints_anybody_above_themselves(actor: Role, appointable: set[Role]) -> None:
    assert {role for role in Role if may_appoint(actor, role)} == appointable


def test_the_tables_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ROLE_PERMISSIONS[Role.VIEWER] = frozenset(Permission)  # type: ignore[index]
