"""``manage.py usage_report``: what each tenant used by the day, and Stripe told of what is closed."""

from datetime import date
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from audit.jobs import run_job
from audit.models import JobRun
from billing.usage_reports import usage_report
from gateway.management.operator_command import OperatorCommand

_STRIPE: Final = {"events": "new", "sent": "sent", "failed": "failed", "unclear": "unclear"}


class Command(OperatorCommand):
    help = "Bring the usage reports up to now and report closed days to Stripe, if it is configured."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since", type=date.fromisoformat, metavar="DAY", help="make all reports from this UTC day on"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            run = run_job("usage_report", lambda: usage_report(since=options["since"]), self.actor.label)
        except ImproperlyConfigured as exc:
            raise CommandError(str(exc)) from None
        if run.outcome == JobRun.Outcome.SKIPPED:
            raise CommandError("Another worker is at it right now.")
        facts = run.facts
        self.stdout.write(f"{facts['reports']} reports made or changed, {facts['closed']} closed.")
        counts = ", ".join(f"{facts[name]} {word}" for name, word in _STRIPE.items())
        self.stdout.write(f"Stripe: {counts}.")
