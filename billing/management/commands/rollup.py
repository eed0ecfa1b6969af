"""``manage.py rollup``: bring the sums by hour and day up to now, or make those of a range again."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit.jobs import run_job
from audit.models import JobRun
from billing.rollups import hours_between, roll_up, roll_up_hours
from gateway.management.operator_command import OperatorCommand, moment


class Command(OperatorCommand):
    help = "Roll up the ledger; with a range, make all its hours again whether they changed or not."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", dest="since", type=moment, metavar="TIME", help="the first hour")
        parser.add_argument("--to", dest="until", type=moment, metavar="TIME", help="before this hour")

    def handle(self, *args: Any, **options: Any) -> None:
        since, until = options["since"], options["until"]
        if (since is None) != (until is None):
            raise CommandError("--from and --to go together.")

        def work() -> dict[str, Any]:
            if since is None:
                return roll_up()
            hours = list(hours_between(since, until))
            return {"hours": len(hours), "days": roll_up_hours(hours)}

        run = run_job("roll_up", work, self.actor.label)
        if run.outcome == JobRun.Outcome.SKIPPED:
            raise CommandError("Another worker is rolling up right now.")
        self.stdout.write(f"{run.facts['hours']} hours and {run.facts['days']} days rolled up.")
