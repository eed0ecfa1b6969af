"""Who calls the management API: a person with a session, or an API token with the management scope."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from audit.record import Actor
from tenants import tokens
from tenants.models import ApiToken, Membership, User
from tenants.network import client_address
from tenants.roles import Permission, Role, Scope, role_allows, scopes_allow


@dataclass(frozen=True, slots=True)
class Manager:
    """What a caller of the management API may do. ``everywhere``: an operator, for all tenants."""

    actor: Actor
    everywhere: bool = False
    roles: tuple[tuple[Any, Role], ...] = ()  # tenant id and role in it
    token: ApiToken | None = None

    is_authenticated = True

    def tenants_allowing(self, permission: Permission) -> Iterable[Any] | None:
        """Ids of the tenants where ``permission`` is held; None for all there are."""
        if self.everywhere:
            return None
        if self.token is not None:
            scopes = [Scope(scope) for scope in self.token.scopes]
            return [self.token.tenant_id] if scopes_allow(scopes, permission) else []
        return [tenant for tenant, role in self.roles if role_allows(role, permission)]


class TokenAuthentication(BaseAuthentication):
    """A bearer token with the management scope."""

    def authenticate(self, request: Request) -> tuple[Manager, ApiToken] | None:
        credential = tokens.bearer_from(_raw_headers(request))
        if not credential:
            return None
        token = _find(credential)
        if token is None or not _holds(token) or Scope.MANAGEMENT not in token.scopes:
            raise AuthenticationFailed("This API key may not be used for management.")
        return Manager(Actor(f"token {token.name}", None, _address(request)), token=token), token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class ManagerSession(SessionAuthentication):
    """A signed-in person; writes need the CSRF token."""

    def authenticate(self, request: Request) -> tuple[Manager, None] | None:
        found = super().authenticate(request)
        if found is None:
            return None
        user: User = found[0]
        actor = Actor.person(user, _address(request))
        if user.is_staff and user.is_superuser:
            return Manager(actor, everywhere=True), None
        memberships = Membership.objects.filter(user=user, project=None, tenant__enabled=True)
        roles = tuple((tenant, Role(role)) for tenant, role in memberships.values_list("tenant_id", "role"))
        return Manager(actor, roles=roles), None


class IsManager(BasePermission):
    """Anybody one of the two above lets in; what they see is up to the view."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.user, Manager)


def _holds(token: ApiToken) -> bool:
    expired = token.expires_at is not None and token.expires_at <= datetime.now(UTC)
    return token.revoked_at is None and not expired


def _find(credential: str) -> ApiToken | None:
    if not tokens.plausible(credential):
        return None
    for number, digest in tokens.Peppers.parse(settings.TOKEN_PEPPERS).digests(credential):
        if token := ApiToken.objects.filter(digest=digest, pepper_number=number, tenant__enabled=True).first():
            return token
    return None


def _raw_headers(request: Request) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]


def _address(request: Request) -> str:
    connection = {"client": (request.META["REMOTE_ADDR"], 0), "headers": _raw_headers(request)}
    return client_address(connection, settings.TRUSTED_PROXIES)
