"""``manage.py serve``: the web server alone, for deployments that run everything else elsewhere."""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway.supervisor import server_command


class Command(BaseCommand):
    help = "Serve with uvicorn on HOST and PORT with WEB_WORKERS processes; replaces this process."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        missing = [name for name in ("DATABASE_URL", "REDIS_URL") if not os.environ.get(name)]
        if missing:
            raise CommandError(f"`serve` needs {' and '.join(missing)}; `up` brings its own databases.")
        command = server_command()
        os.execv(command[0], command)  # noqa: S606 - our own command line
