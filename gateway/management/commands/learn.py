from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from audit.jobs import run_job
from gateway.management.operator_command import OperatorCommand
from gateway.runtime import routing_facts_of
from routing.learning import learn, rebuild
from tenants.models import Tenant


class Command(OperatorCommand):
    help = "Let routers learn from the ratings that have come in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--rebuild", metavar="TENANT", help="forget what this tenant's router believes, and learn all again"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["rebuild"]:
            self._rebuild(options["rebuild"])
            return
        run = run_job("learn", lambda: learn(timezone.now(), routing_facts_of), self.actor.label)
        self.tell_of(run)

    def _rebuild(self, slug: str) -> None:
        tenant = Tenant.objects.filter(slug=slug).first()
        facts = routing_facts_of(tenant.pk) if tenant else None
        if tenant is None or facts is None:
            raise CommandError(f"There is no tenant '{slug}', or it is switched off.")
        run = run_job("learn", lambda: {"labels": rebuild(tenant, facts, timezone.now())}, self.actor.label)
        self.tell_of(run)
