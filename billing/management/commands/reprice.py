"""``manage.py reprice``: correct what calls cost by today's price book."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from billing.repricing import Repricing, reprice
from gateway.management.operator_command import OperatorCommand, find_tenant, moment


class Command(OperatorCommand):
    help = "Write an adjusting line wherever today's price book says that a call cost something else."

    def add_arguments(self, parser: CommandParser) -> None:
        time: dict[str, Any] = {"type": moment, "required": True, "metavar": "TIME"}
        parser.add_argument("--from", dest="since", help="started at or after", **time)
        parser.add_argument("--to", dest="until", help="started before", **time)
        parser.add_argument("--tenant", metavar="SLUG", help="without it, all of them")
        parser.add_argument("--model", default="", metavar="NAME", help="as callers or as the vendor name it")
        parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["since"] >= options["until"]:
            raise CommandError("--from must be before --to: nothing started in between.")
        result = reprice(
            self.actor,
            since=options["since"],
            until=options["until"],
            tenant=find_tenant(options["tenant"]) if options["tenant"] else None,
            model=options["model"],
            dry_run=options["dry_run"],
        )
        self.stdout.write(_json(result) if options["json"] else _table(result))


def _json(result: Repricing) -> str:
    models = [
        {
            "model": summary.model,
            "lines": summary.lines,
            "unpriced": summary.unpriced,
            "old_usd": f"{summary.old_usd:f}",
            "new_usd": f"{summary.new_usd:f}",
            "difference_usd": f"{summary.difference_usd:f}",
        }
        for summary in result.models
    ]
    return json.dumps({"examined": result.examined, "without_price": result.without_price, "models": models}, indent=2)


def _table(result: Repricing) -> str:
    rows = [f"{'model':<32}{'lines':>10}{'old USD':>22}{'new USD':>22}{'difference':>22}"]
    rows += [
        f"{each.model:<32}{each.lines:>10}{each.old_usd:>22f}{each.new_usd:>22f}{each.difference_usd:>+22f}"
        for each in result.models
    ]
    without = f"; {result.without_price} have no known price" if result.without_price else ""
    rows.append(f"{result.adjusted} of {result.examined} lines differ, by {result.difference_usd:+f} USD{without}.")
    return "\n".join(rows if result.models else rows[-1:])
