from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from audit.jobs import run_job
from gateway.management.operator_command import OperatorCommand
from gateway.replaying import execute, populate


class Command(OperatorCommand):
    help = "Ask banked conversations again, as the weekly schedule does, and say which models have changed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--populate", action="store_true", help="only fill the bank from what was judged")

    def handle(self, *args: Any, **options: Any) -> None:
        by = self.actor.label
        run = run_job("replay_bank_populate", lambda: populate(timezone.now()), by)
        self.tell_of(run)
        if not options["populate"]:
            run = run_job("replay_execute", lambda: execute(timezone.now()), by)
            self.tell_of(run)
