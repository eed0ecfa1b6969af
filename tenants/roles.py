"""Who may do what: a member's role and a token's scopes, each a set of permissions.

Views, API and pages ask for a permission and never for a role by name, so that a role can be added or changed here
alone.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Permission(StrEnum):
    VIEW = "view"
    """Dashboards, usage, spend, models, routing decisions; never the content of prompts."""
    VIEW_CONTENT = "view_content"
    """What was asked and answered, where the tenant keeps it."""
    VIEW_AUDIT = "view_audit"
    USE_MODELS = "use_models"
    """Calls that reach a vendor and cost money."""
    MANAGE_TOKENS = "manage_tokens"
    MANAGE_MODELS = "manage_models"
    """Models, aliases, fallbacks, prices."""
    MANAGE_ROUTING = "manage_routing"
    MANAGE_GUARDRAILS = "manage_guardrails"
    MANAGE_PROVIDERS = "manage_providers"
    """Providers and their keys."""
    MANAGE_BUDGETS = "manage_budgets"
    """Budgets, limits, alerts."""
    MANAGE_MEMBERS = "manage_members"
    MANAGE_TENANT = "manage_tenant"
    """Projects, retention, content logging, sign-in rules."""
    MANAGE_BILLING = "manage_billing"
    """Plan and payment."""
    OWN_TENANT = "own_tenant"
    """Deleting the tenant, appointing owners."""


class Role(StrEnum):
    """A member's standing in one tenant; each role may do all that the next one may."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class Scope(StrEnum):
    """What an API token is for. A token may carry both."""

    INFERENCE = "inference"
    MANAGEMENT = "management"


_VIEWER: Final = frozenset({Permission.VIEW})
_DEVELOPER: Final = _VIEWER | {
    Permission.VIEW_CONTENT,
    Permission.USE_MODELS,
    Permission.MANAGE_TOKENS,
    Permission.MANAGE_MODELS,
    Permission.MANAGE_ROUTING,
}
_ADMIN: Final = _DEVELOPER | {
    Permission.VIEW_AUDIT,
    Permission.MANAGE_GUARDRAILS,
    Permission.MANAGE_PROVIDERS,
    Permission.MANAGE_BUDGETS,
    Permission.MANAGE_MEMBERS,
    Permission.MANAGE_TENANT,
}

ROLE_PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = MappingProxyType(
    {
        Role.OWNER: frozenset(Permission),
        Role.ADMIN: _ADMIN,
        Role.DEVELOPER: _DEVELOPER,
        Role.VIEWER: _VIEWER,
    }
)

SCOPE_PERMISSIONS: Final[Mapping[Scope, frozenset[Permission]]] = MappingProxyType(
    {
        Scope.INFERENCE: frozenset({Permission.USE_MODELS}),
        Scope.MANAGEMENT: _ADMIN - {Permission.USE_MODELS},
    }
)


def role_allows(role: Role, permission: Permission) -> bool:
    return permission in ROLE_PERMISSIONS[role]


def scopes_allow(scopes: Iterable[Scope], permission: Permission) -> bool:
    return any(permission in SCOPE_PERMISSIONS[scope] for scope in scopes)


def may_appoint(actor: Role, role: Role) -> bool:
    """Whether a member may give ``role`` to somebody, or take it away: never one that can do more than they can."""
    return role_allows(actor, Permission.MANAGE_MEMBERS) and ROLE_PERMISSIONS[role] <= ROLE_PERMISSIONS[actor]
