from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from audit.jobs import run_job
from gateway.runtime import routing_facts_of
from routing.moving import cost_migration


class Command(BaseCommand):
    help = "Move cells to cheaper models that are shown to be as good, a step further or back, where tenants want that."

    def handle(self, *args: Any, **options: Any) -> None:
        work = "cost_migration"
        run = run_job(work, lambda: cost_migration(timezone.now(), routing_facts_of), f"manage.py {work}")
        self.stdout.write(f"{run.outcome}: {run.facts}")
