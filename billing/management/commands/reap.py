"""``manage.py reap``: close what dead gateway processes left open."""

import json
from typing import Any

from django.core.management.base import CommandParser

from audit.models import JobRun
from billing.reaper import reap_by_hand
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Settle, at what was reserved, the attempts of gateway processes that died. The schedule does the same."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="what the run found, as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        run = reap_by_hand(self.actor.label)
        if options["json"]:
            self.stdout.write(json.dumps({"outcome": run.outcome, **run.facts}))
        elif run.outcome == JobRun.Outcome.SKIPPED:
            self.stdout.write("Nothing done: another worker is at it.")
        elif waiting := run.facts.get("waiting"):
            self.stdout.write(f"Nothing done: {waiting}.")
        else:
            facts = run.facts
            self.stdout.write(
                f"{facts['settled']} attempts settled as abandoned, {facts['processes_removed']} processes removed."
            )
