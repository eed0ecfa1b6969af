"""``manage.py send_alerts``: what the schedule does for alerts, once and at once."""

from typing import Any

from django.utils import timezone

from audit.jobs import run_job
from audit.models import JobRun
from billing.alerts import deliver_pending, evaluate_rules, raise_budget_alerts
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Look at budgets and alert rules (but those of circuit breakers), and send what is due."

    def handle(self, *args: Any, **options: Any) -> None:
        for name, work in (
            ("budget_alerts", lambda: raise_budget_alerts(timezone.now())),
            ("alert_rules", lambda: evaluate_rules(timezone.now())),
            ("deliver_alerts", lambda: deliver_pending(timezone.now())),
        ):
            run = run_job(name, work, started_by=self.actor.label)
            skipped = run.outcome == JobRun.Outcome.SKIPPED
            facts = ", ".join(f"{_plain(found)} {what}" for what, found in run.facts.items())
            self.stdout.write(f"{name}: {'another worker is at it' if skipped else facts}")


def _plain(found: Any) -> str:
    return " ".join(map(str, found)) if isinstance(found, list) else str(found)
