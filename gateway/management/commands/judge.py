from typing import Any

from django.utils import timezone

from audit.jobs import run_job
from gateway.judging import judge_samples
from gateway.management.operator_command import OperatorCommand


class Command(OperatorCommand):
    help = "Judge the answers that wait for it, as far as each tenant's money of today goes."

    def handle(self, *args: Any, **options: Any) -> None:
        run = run_job("judge", lambda: judge_samples(timezone.now()), self.actor.label)
        self.tell_of(run)
