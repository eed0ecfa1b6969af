"""``manage.py export_ledger``: the ledger as JSON lines or CSV."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing.export import FORMATS, export
from gateway.management.operator_command import OperatorCommand, find_tenant, moment


class Command(OperatorCommand):
    help = "Write the ledger, one line per attempt, to standard output or a file."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", metavar="SLUG", help="without it, all of them")
        parser.add_argument("--from", dest="since", type=moment, metavar="TIME", help="started at or after")
        parser.add_argument("--to", dest="until", type=moment, metavar="TIME", help="started before")
        parser.add_argument("--format", choices=FORMATS, default="jsonl")
        parser.add_argument("--output", type=Path, metavar="FILE", help="replaced when it exists")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant = find_tenant(options["tenant"]) if options["tenant"] else None
        path = options["output"]
        with ExitStack() as stack:
            try:
                out = stack.enter_context(path.open("w", encoding="utf-8", newline="")) if path else self.stdout
            except OSError as exc:
                raise CommandError(f"{path}: {exc.strerror}.") from None
            count = export(out, format=options["format"], tenant=tenant, since=options["since"], until=options["until"])
        if path:
            self.tell(f"{count} lines written to {path}.")
