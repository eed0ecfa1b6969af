"""``manage.py conformance``: every caller's dialect on every vendor's format, through a running gateway."""

import json
import os
import secrets
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from gateway.conformance import matrix
from gateway.conformance.vendors import VendorServer
from gateway.declaration import DeclarationRefused, apply
from gateway.management.operator_command import OperatorCommand

TENANT = "conformance"
TOKEN_VARIABLE = "POINTSMAN_CONFORMANCE_TOKEN"  # noqa: S105 - the name of a variable


class Command(OperatorCommand):
    help = "Ask a running gateway everything a caller can ask, of scripted vendors on loopback, and print what holds."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--url", default=f"http://127.0.0.1:{settings.PORT}", help="the gateway's address")
        parser.add_argument("--json", action="store_true", help="one line of JSON for each cell")

    def handle(self, *args: Any, **options: Any) -> None:
        os.environ[TOKEN_VARIABLE] = token = f"conformance-{secrets.token_hex(16)}"
        with VendorServer(process=True) as vendors:
            try:
                apply(matrix.declaration(vendors.url, TENANT, TOKEN_VARIABLE), self.actor)
            except DeclarationRefused as exc:
                raise CommandError(
                    f"The scripted vendors cannot be declared; does ALLOWED_UPSTREAMS have 127.0.0.1/32?\n{exc}"
                ) from exc
            cells = []
            for cell in matrix.run(options["url"], token):
                cells.append(cell)
                if options["json"]:
                    self.stdout.write(json.dumps(asdict(cell)))
        apply(f"tenants:\n  - slug: {TENANT}\n    enabled: false\n", self.actor)
        failed = [cell for cell in cells if not cell.passed]
        if not options["json"]:
            for line in matrix.table(cells):
                self.stdout.write(line)
            for cell in failed:
                way = "streamed" if cell.streamed else "whole"
                self.stdout.write(f"{cell.dialect} > {cell.vendor}, {cell.feature}, {way}: {cell.told}")
        if failed:
            raise CommandError(f"{len(failed)} of {len(cells)} cells do not hold.")
        if not options["json"]:
            self.stdout.write(f"All {len(cells)} cells hold.")
