"""``manage.py prepare``: what `up` does before it serves, for deployments."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from gateway import first_run


class Command(BaseCommand):
    help = "Migrate and make sure that partitions, the first operator and the shipped price book exist."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=options["verbosity"])
        email, password = first_run.prepare()
        self.stdout.write(f"First operator: {email}" + (f", password {password} (shown only now)" if password else ""))
