"""``manage.py verify_audit``: prove that the audit trail is what was written."""

import json
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser

from audit.models import AuditCheckpoint, AuditEvent
from audit.record import verify_chain
from gateway.management.operator_command import OperatorCommand, find_tenant

MOST_NAMED: Final = 20


class Command(OperatorCommand):
    help = "Recompute the audit trail's hash chains and name where they are broken; exit code 1 when one is."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="without it, all of them and the installation's own")
        parser.add_argument("--json", action="store_true", help="print the chains as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        owners = [find_tenant(options["tenant"])] if options["tenant"] else _owners()
        chains = [_examine(owner) for owner in owners]
        if options["json"]:
            self.stdout.write(json.dumps(chains, indent=2))
        else:
            self.stdout.write("\n".join(_line(chain) for chain in chains) or "There are no events.")
        if broken := sum(bool(chain["broken"]) for chain in chains):
            raise CommandError(f"{broken} of {len(chains)} chains are broken.")


def _owners() -> list[Any]:
    """Also those of which nothing but a checkpoint is left."""
    found = {
        owned.tenant_id: owned.tenant
        for kind in (AuditEvent, AuditCheckpoint)
        for owned in kind._default_manager.order_by("tenant__slug").distinct("tenant__slug").select_related("tenant")
    }
    return sorted(found.values(), key=lambda tenant: tenant.slug if tenant else "")


def _examine(tenant: Any) -> dict[str, Any]:
    """The newest event's digest, kept elsewhere, shows later whether the newest events were cut off."""
    events = AuditEvent.objects.filter(tenant=tenant).order_by("sequence")
    checkpoint = AuditCheckpoint.objects.filter(tenant=tenant).order_by("-sequence").first()
    last = events.last()
    return {
        "tenant": tenant.slug if tenant else None,
        "events": events.count(),
        "removed": checkpoint.sequence if checkpoint else 0,
        "last": last.sequence if last else None,
        "digest": bytes(last.digest).hex() if last else None,
        "broken": verify_chain(tenant),
    }


def _line(chain: dict[str, Any]) -> str:
    removed = f", {chain['removed']} before them removed" if chain["removed"] else ""
    line = f"{chain['tenant'] or 'the installation'}: {chain['events']} events{removed}: "
    if not chain["broken"]:
        return f"{line}whole, up to {chain['last']} ({chain['digest']})."
    places = ", ".join(map(str, chain["broken"][:MOST_NAMED]))
    more = len(chain["broken"]) - MOST_NAMED
    return f"{line}BROKEN at {places}{f' and {more} more places' if more > 0 else ''}."
