"""How a new tenant comes in."""

from django.db import transaction

from audit.actions import Action
from audit.record import Actor, changes_between, record
from tenants.models import Project, Tenant


@transaction.atomic
def create_tenant(
    slug: str, actor: Actor, *, name: str = "", project: str | None = None
) -> tuple[Tenant, Project | None]:
    """A tenant and, where ``project`` gives its slug, a first project. Raises ValidationError."""
    tenant = Tenant(slug=slug, name=name)
    tenant.full_clean()
    tenant.save()
    record(actor, Action.TENANT_CREATED, tenant, tenant=tenant, changes=changes_between(None, tenant))
    if project is None:
        return tenant, None
    first = Project(tenant=tenant, slug=project)
    first.full_clean()
    first.save()
    record(actor, Action.PROJECT_CREATED, first, tenant=tenant, changes=changes_between(None, first))
    return tenant, first
