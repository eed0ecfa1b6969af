"""``manage.py up``: everything a machine needs to run Pointsman, in the foreground until Ctrl-C or ``make down``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway.supervisor import Supervisor, SupervisorError


class Command(BaseCommand):
    help = "Migrate, prepare the first operator and the demo tenant, serve, and run worker and beat."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            Supervisor(print_line=self.stdout.write).run()
        except SupervisorError as exc:
            raise CommandError(str(exc)) from None
