"""``manage.py revoke_token``: the next request with it is refused."""

from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from gateway.management.operator_command import OperatorCommand, find_tenant
from tenants.models import ApiToken


class Command(OperatorCommand):
    help = "Revoke an API token, by its id or by tenant and name. It acts on the very next request."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", nargs="?", type=UUID, help="as `issue_token` said it")
        parser.add_argument("--tenant", metavar="SLUG")
        parser.add_argument("--name")

    def handle(self, *args: Any, **options: Any) -> None:
        token = _find(options["id"], options["tenant"], options["name"])
        token.revoke(self.actor)
        self.stdout.write(f"Revoked token {token.name} of {token.tenant.slug}/{token.project.slug}.")


def _find(token_id: UUID | None, tenant_slug: str | None, name: str | None) -> ApiToken:
    """Raises CommandError unless exactly one live token is meant."""
    if token_id is None and not (tenant_slug and name):
        raise CommandError("Say which: an id, or --tenant and --name.")
    live = ApiToken.objects.filter(revoked_at=None).select_related("tenant", "project")
    found = live.filter(pk=token_id) if token_id else live.filter(tenant=find_tenant(tenant_slug or ""), name=name)
    tokens = list(found[:2])
    if not tokens:
        raise CommandError("There is no such token, or it is revoked already.")
    if len(tokens) > 1:
        raise CommandError(f"Several projects of {tenant_slug} have a token '{name}': say its id.")
    return tokens[0]
