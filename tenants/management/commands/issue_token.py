"""``manage.py issue_token``: an API token, shown this once."""

import json
from typing import Any

from django.core.management.base import CommandParser

from gateway.management.operator_command import (
    OperatorCommand,
    find_project,
    find_tenant,
    moment_ahead,
    secret_from_environment,
)
from tenants.models import ApiToken
from tenants.roles import Scope


class Command(OperatorCommand):
    help = "Issue an API token. Its text goes to standard output and is not shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, metavar="SLUG")
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--name", required=True)
        parser.add_argument("--models", nargs="+", default=["*"], metavar="PATTERN", help='default: "*", all of them')
        parser.add_argument("--scope", action="append", choices=[*Scope], help="default: inference; may be repeated")
        parser.add_argument("--cidr", action="append", default=[], metavar="NETWORK", help="may be repeated")
        parser.add_argument(
            "--rpm", type=int, default=0, help="requests per minute; 0, the default: no limit of its own"
        )
        parser.add_argument("--expires", type=moment_ahead, metavar="TIME", help="2027-01-31, or a span like 30d")
        parser.add_argument("--value-env", metavar="NAME", help="take the token's text from this environment variable")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = find_tenant(options["tenant"])
        token, text = ApiToken.issue(
            tenant=tenant,
            project=find_project(tenant, options["project"]),
            name=options["name"],
            actor=self.actor,
            scopes=options["scope"] or [Scope.INFERENCE],
            allowed_models=options["models"],
            allowed_cidrs=options["cidr"],
            requests_per_minute=options["rpm"],
            expires_at=options["expires"],
            value=secret_from_environment(options["value_env"]) if options["value_env"] else None,
        )
        if options["json"]:
            self.stdout.write(json.dumps(_as_dict(token) | {"token": text}))
        else:
            self.tell(f"Token {token.name} of {tenant.slug}/{token.project.slug} (id {token.pk}), shown only now:")
            self.stdout.write(text)


def _as_dict(token: ApiToken) -> dict[str, Any]:
    return {
        "id": str(token.pk),
        "tenant": token.tenant.slug,
        "project": token.project.slug,
        "name": token.name,
        "scopes": [str(scope) for scope in token.scopes],
        "models": list(token.allowed_models),
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
    }
