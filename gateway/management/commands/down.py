"""``manage.py down``: stop what ``manage.py up`` started with the same data directory."""

from typing import Any

from django.core.management.base import BaseCommand

from gateway.supervisor import down


class Command(BaseCommand):
    help = "Stop a running `up` of this data directory and wait until it is gone."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(down())
