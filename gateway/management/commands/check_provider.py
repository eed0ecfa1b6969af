"""``manage.py check_provider``: does a provider list its models, and does it answer?"""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser

from gateway.management.operator_command import OperatorCommand, find_tenant
from gateway.models import Provider
from gateway.provider_check import ProviderCheck, check_provider

_SHOWN_MODELS = 20


class Command(OperatorCommand):
    help = "List a provider's models and ask one of them for one token's worth; exit code 1 when that fails."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--tenant", metavar="SLUG", help="whose; without it the only provider of that name")
        parser.add_argument("--model", help="a configured model, or the vendor's name of one")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        result = check_provider(_find(options["name"], options["tenant"]), options["model"])
        if options["json"]:
            self.stdout.write(json.dumps(asdict(result), indent=2))
        else:
            self._print(result)
        if not result.ok:
            raise CommandError(f"{result.provider} failed at {result.stage}: {result.message}")

    def _print(self, result: ProviderCheck) -> None:
        if result.models is None:
            self.stdout.write(f"models: {result.listing}")
        else:
            more = ", ..." if len(result.models) > _SHOWN_MODELS else ""
            self.stdout.write(f"models: {len(result.models)} ({', '.join(result.models[:_SHOWN_MODELS])}{more})")
        if result.ok:
            self.stdout.write(f"answer: {result.message} ({result.latency_ms:.0f} ms)")


def _find(name: str, tenant_slug: str | None) -> Provider:
    """Raises CommandError unless there is exactly one."""
    found = Provider.objects.filter(name=name)
    if tenant_slug:
        found = found.filter(tenant=find_tenant(tenant_slug))
    providers = list(found[:2])
    if not providers:
        raise CommandError(f"There is no provider '{name}'.")
    if len(providers) > 1:
        raise CommandError(f"Several tenants have a provider '{name}': say which with --tenant.")
    return providers[0]
