from typing import Any

from django.utils import timezone

from audit.jobs import run_job
from gateway.management.operator_command import OperatorCommand
from gateway.runtime import routing_facts_of
from routing.moving import cost_migration


class Command(OperatorCommand):
    help = "Move cells to cheaper models that are shown to be as good, a step further or back, where tenants want that."

    def handle(self, *args: Any, **options: Any) -> None:
        label = self.actor.label
        run = run_job("cost_migration", lambda: cost_migration(timezone.now(), routing_facts_of), label)
        self.tell_of(run)
