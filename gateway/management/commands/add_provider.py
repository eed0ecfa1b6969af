"""``manage.py add_provider``: one provider, for one tenant or for all."""

import sys
from typing import Any

from django.core.management.base import CommandParser

from gateway.management.operator_command import OperatorCommand, find_tenant, secret_from_environment
from gateway.onboarding import add_provider
from gateway.providers import catalog


class Command(OperatorCommand):
    help = "Add a provider. Its key comes from an environment variable or standard input, never from an argument."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", required=True)
        parser.add_argument(
            "--kind", required=True, choices=catalog.KINDS, metavar="KIND", help=", ".join(catalog.KINDS)
        )
        parser.add_argument("--tenant", metavar="SLUG", help="without it the provider is offered to every tenant")
        parser.add_argument("--base-url", default="", help="without it the catalogue's address for this kind")
        key = parser.add_mutually_exclusive_group()
        key.add_argument("--key-env", metavar="NAME", help="the environment variable that holds its key")
        key.add_argument("--key-stdin", action="store_true", help="read its key from standard input")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = find_tenant(options["tenant"]) if options["tenant"] else None
        secret = sys.stdin.readline().strip() if options["key_stdin"] else None
        if options["key_env"]:
            secret = secret_from_environment(options["key_env"])
        provider = add_provider(
            tenant=tenant,
            name=options["name"],
            kind=options["kind"],
            base_url=options["base_url"],
            secret=secret,
            actor=self.actor,
        )
        self.stdout.write(f"Added provider {provider.name}; try it with `manage.py check_provider {provider.name}`.")
        if not secret and catalog.get(provider.kind).key_required:
            self.tell(f"warning: {provider.name} has no key and cannot be used until it is given one.")
