"""``manage.py reconcile``: the ledger beside a vendor's usage or cost export."""

import json
from datetime import UTC
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from billing.models import Attempt
from billing.reconciliation.comparison import TOLERANCE_PERCENT, NothingToCompare, reconcile
from billing.reconciliation.exports import FORMATS, ExportError, read_export
from billing.reconciliation.table import as_json, as_table, verdict
from gateway.management.operator_command import OperatorCommand, find_tenant, moment


class Command(OperatorCommand):
    help = "Compare the ledger with a vendor's export; exit code 1 when they differ and nothing harmless explains it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--provider", action="append", required=True, metavar="NAME", help="may be repeated")
        parser.add_argument("--tenant", metavar="SLUG", help="whose provider; without it, the installation's")
        parser.add_argument("--file", type=Path, required=True, metavar="CSV", help="what the vendor exported")
        parser.add_argument("--format", choices=FORMATS, default="auto")
        parser.add_argument("--from", dest="since", type=moment, metavar="DAY", help="first day, UTC")
        parser.add_argument("--to", dest="until", type=moment, metavar="DAY", help="last day, UTC")
        parser.add_argument(
            "--key", action="append", default=[], metavar="ID",
            help="a key or project of the export that is ours (id or name); others are left out; may be repeated",
        )  # fmt: skip
        parser.add_argument("--tolerance", default=str(TOLERANCE_PERCENT), metavar="PERCENT")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        since, until = options["since"], options["until"]
        try:
            result = reconcile(
                read_export(options["file"], options["format"]),
                [_provider(name, options["tenant"]) for name in options["provider"]],
                first=since.astimezone(UTC).date() if since else None,
                last=until.astimezone(UTC).date() if until else None,
                known=options["key"],
                tolerance_percent=_percent(options["tolerance"]),
            )
        except (ExportError, NothingToCompare) as exc:
            raise CommandError(str(exc)) from None
        self.stdout.write(json.dumps(as_json(result), indent=2) if options["json"] else as_table(result))
        if not result.agrees:
            raise CommandError(verdict(result))


def _provider(name: str, slug: str | None) -> UUID:
    tenant = find_tenant(slug) if slug else None
    providers = Attempt._meta.get_field("provider").related_model._default_manager  # type: ignore[union-attr]
    found: UUID | None = providers.filter(name=name, tenant=tenant).values_list("pk", flat=True).first()
    if found is None:
        whose = f"in {slug}" if slug else "of the installation; name its tenant with --tenant"
        raise CommandError(f"There is no provider '{name}' {whose}.")
    return found


def _percent(text: str) -> Decimal:
    try:
        percent = Decimal(text)
    except InvalidOperation:
        percent = Decimal(-1)
    if not percent.is_finite() or percent < 0:
        raise CommandError(f"--tolerance must be a number of per cent, not '{text}'.")
    return percent
