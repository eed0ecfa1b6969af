"""``manage.py audit_retention``: remove audit events that nobody keeps any longer."""

from typing import Any

from django.core.management.base import CommandError

from audit.jobs import run_job
from audit.models import JobRun
from audit.retention import remove_old_events
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Remove audit events older than their tenants' plans keep them; what remains can still be verified."

    def handle(self, *args: Any, **options: Any) -> None:
        run = run_job("audit_retention", remove_old_events, self.actor.label)
        if run.outcome == JobRun.Outcome.SKIPPED:
            raise CommandError("Another worker is at it right now.")
        facts = run.facts
        self.stdout.write(f"{facts['events']} events of {facts['chains']} chains removed.")
        if facts["broken"]:
            names = ", ".join(name or "the installation" for name in facts["broken"])
            raise CommandError(f"Broken, so nothing was removed from them: {names}. Ask verify_audit where.")
