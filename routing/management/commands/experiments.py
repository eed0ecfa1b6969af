"""``manage.py experiments``: what is being tried out and where it stands; look at it now; stop one."""

import json
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from audit.jobs import run_job
from gateway.management.operator_command import OperatorCommand, find_tenant
from routing.models import Experiment
from routing.trials import NotRunning, conclusion_of, evaluate_experiments, stop_experiment


class Command(OperatorCommand):
    help = "List experiments with their standing; evaluate: look at all now; stop NAME: end one without a winner."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", nargs="?", choices=("list", "evaluate", "stop"), default="list")
        parser.add_argument("name", nargs="?", metavar="NAME", help="of the experiment to stop")
        parser.add_argument("--tenant", metavar="SLUG", help="whose; without it, all are listed")
        parser.add_argument("--json", action="store_true", help="print the list as JSON, with the figures by arm")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["action"] == "stop":
            self._stop(options["name"], options["tenant"], now)
        elif options["action"] == "evaluate":
            run = run_job("experiments", lambda: evaluate_experiments(now), started_by=self.actor.label)
            self.tell_of(run)
        else:
            self._list(options["tenant"], now, as_json=options["json"])

    def _stop(self, name: str | None, slug: str | None, now: datetime) -> None:
        if not name or not slug:
            raise CommandError("Say which: experiments stop NAME --tenant SLUG.")
        row = Experiment.objects.filter(tenant=find_tenant(slug), name=name).first()
        if row is None:
            raise CommandError(f"There is no experiment '{name}' in {slug}.")
        try:
            stop_experiment(row, self.actor, now)
        except NotRunning as exc:
            raise CommandError(str(exc)) from None
        self.stdout.write(f"{slug}/{name} is ended.")

    def _list(self, slug: str | None, now: datetime, *, as_json: bool) -> None:
        rows = Experiment.objects.select_related("tenant").order_by("tenant__slug", "status", "name")
        if slug:
            rows = rows.filter(tenant=find_tenant(slug))
        if as_json:
            self.stdout.write(json.dumps([_data(row, now) for row in rows], indent=2))
            return
        for row in rows:
            cell = f"{row.task or 'any task'}/{row.complexity or 'any'}"
            self.stdout.write(f"{row.tenant.slug}/{row.name} ({cell}, {row.mode}, {row.status})")
            self.stdout.write(f"  {conclusion_of(row, now).reason}")
        if not rows:
            self.stdout.write("There are no experiments.")


def _data(row: Experiment, now: datetime) -> dict[str, Any]:
    found = conclusion_of(row, now)
    return {
        "tenant": row.tenant.slug,
        "name": row.name,
        "task": row.task,
        "complexity": row.complexity,
        "mode": row.mode,
        "status": row.status,
        "winner": row.winner,
        "action": found.action,
        "reason": found.reason,
        "figures": found.data,
    }
