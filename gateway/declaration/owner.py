"""Who owns what a file declares, and how its parts find each other."""

from collections.abc import Iterable

from django.db.models import Q

from gateway.declaration.document import Problem
from gateway.declaration.entries import Entry
from gateway.declaration.writing import Writer
from tenants.models import Project, Tenant


class Owner:
    """What a tenant or the installation may own; the installation is no tenant (None)."""

    def __init__(self, writer: Writer, entry: Entry, tenant: Tenant | None) -> None:
        self.writer = writer
        self.entry = entry
        self.tenant = tenant
        self.visible = Q(tenant=tenant) | Q(tenant=None)

    def usable(self, section: str) -> Iterable[Entry]:
        return (entry for entry in self.entry.sections.get(section, ()) if entry.usable)

    def declared(self, section: str, key: str = "name") -> set[str]:
        """Names in the file, also of entries that cannot be used: a reference to one is no second problem."""
        return {entry.values[key] for entry in self.entry.sections.get(section, ()) if key in entry.values}

    def find_project(self, entry: Entry, key: str = "project") -> Project | None:
        """The project that ``key`` names; None, with the problem on the list, where there is none."""
        wanted = entry.values.get(key)
        if wanted is None:
            return None
        projects = Project.objects.filter(tenant=self.tenant)
        found = projects.filter(slug=wanted).first()
        if found is None and wanted not in self.declared("projects", "slug"):
            self.writer.missing(entry, key, wanted, "project", projects.values_list("slug", flat=True))
        return found

    def problem(self, entry: Entry, key: str, message: str) -> None:
        self.writer.problems.append(Problem(entry.line_of(key), f"{key}: {message}"))
