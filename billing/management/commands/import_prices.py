"""``manage.py import_prices``: take over the price book that is shipped with the gateway."""

from typing import Any

from billing.price_book import import_book
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Add the prices of the shipped book that are not known yet. Needs no network; prices of your own win."

    def handle(self, *args: Any, **options: Any) -> None:
        result = import_book(self.actor)
        self.stdout.write(f"{result.added} prices added, {result.unchanged} were known, {len(result.skipped)} skipped.")
        if options["verbosity"] > 1:
            for reason in result.skipped:
                self.tell(f"skipped: {reason}")
