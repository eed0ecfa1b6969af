from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from audit.jobs import run_job
from gateway.runtime import routing_facts_of
from routing.trials import auto_ab


class Command(BaseCommand):
    help = "Begin experiments on cells whose two best models are tied, for tenants that want that."

    def handle(self, *args: Any, **options: Any) -> None:
        run = run_job("auto_ab", lambda: auto_ab(timezone.now(), routing_facts_of), "manage.py auto_ab")
        self.stdout.write(f"{run.outcome}: {run.facts}")
