"""``manage.py serve``: the web server alone, for deployments that run everything else elsewhere."""

import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gateway import server
from gateway.supervisor import server_command, server_options


class Command(BaseCommand):
    help = "Serve with uvicorn on HOST and PORT with WEB_WORKERS processes, in this process's place."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        missing = [name for name in ("DATABASE_URL", "REDIS_URL") if not os.environ.get(name)]
        if missing:
            raise CommandError(f"`serve` needs {' and '.join(missing)}; `up` brings its own databases.")
        if settings.WEB_WORKERS == 1:  # all that it needs is imported already
            server.run(server_options())
        command = server_command()  # a process that only watches others has no use for that
        os.execv(command[0], command)  # noqa: S606 - our own command line
