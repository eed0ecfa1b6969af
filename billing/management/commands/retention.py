"""``manage.py retention``: remove request logs that nobody keeps any longer."""

from typing import Any

from django.core.management.base import CommandError

from audit.jobs import run_job
from audit.models import JobRun
from billing.retention import retain
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Remove request logs older than their tenants' plans keep them. The ledger is never touched."

    def handle(self, *args: Any, **options: Any) -> None:
        run = run_job("retention", retain, self.actor.label)
        if run.outcome == JobRun.Outcome.SKIPPED:
            raise CommandError("Another worker is at it right now.")
        for name in run.facts["dropped"]:
            self.stdout.write(f"{name}: dropped.")
        for table, count in run.facts["deleted"].items():
            self.stdout.write(f"{table}: {count} rows deleted.")
