"""``manage.py weight_snapshots``: a picture of what routers believe, beside what yesterday's decisions cost."""

from typing import Any

from django.utils import timezone

from audit.jobs import run_job
from gateway.management.operator_command import OperatorCommand
from routing.snapshots import snapshot_weights


class Command(OperatorCommand):
    help = (
        "Keep yesterday's picture of what each router believes, as beliefs stand now. One that is there is made again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        run = run_job("weight_snapshots", lambda: snapshot_weights(timezone.now()), self.actor.label)
        self.tell_of(run)
