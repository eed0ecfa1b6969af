from typing import Any

from django.utils import timezone

from audit.jobs import run_job
from gateway.management.operator_command import OperatorCommand
from gateway.runtime import routing_facts_of
from routing.trials import auto_ab


class Command(OperatorCommand):
    help = "Begin experiments on cells whose two best models are tied, for tenants that want that."

    def handle(self, *args: Any, **options: Any) -> None:
        run = run_job("auto_ab", lambda: auto_ab(timezone.now(), routing_facts_of), self.actor.label)
        self.tell_of(run)
