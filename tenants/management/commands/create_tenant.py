"""``manage.py create_tenant``: a tenant and, if wanted, its first project."""

import json
from typing import Any

from django.core.management.base import CommandParser

from gateway.management.operator_command import OperatorCommand
from tenants.onboarding import create_tenant


class Command(OperatorCommand):
    help = "Create a tenant."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", help="lower-case letters, digits and hyphens")
        parser.add_argument("--name", default="", help="as people know it")
        parser.add_argument("--project", metavar="SLUG", help="also create this project")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        tenant, project = create_tenant(options["slug"], self.actor, name=options["name"], project=options["project"])
        if options["json"]:
            created = {"id": str(tenant.pk), "slug": tenant.slug, "project": project.slug if project else None}
            self.stdout.write(json.dumps(created))
        else:
            self.stdout.write(f"Created tenant {tenant.slug}" + (f" with project {project.slug}." if project else "."))
