"""How a new provider comes in."""

from django.db import transaction

from audit.actions import Action
from audit.record import Actor, changes_between, record
from gateway.models import Provider
from tenants.models import Tenant


@transaction.atomic
def add_provider(
    *, tenant: Tenant | None, name: str, kind: str, base_url: str, secret: str | None, actor: Actor
) -> Provider:
    """A provider of ``tenant`` (None: offered to all), with its key if there is one. Raises ValidationError."""
    provider = Provider(tenant=tenant, name=name, kind=kind, base_url=base_url)
    provider.full_clean()
    provider.save()
    record(actor, Action.PROVIDER_CREATED, provider, tenant=tenant, changes=changes_between(None, provider))
    if secret:
        provider.set_key(secret, actor)
    return provider
