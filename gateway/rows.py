"""What every row of the system has: a time-ordered identifier and, where a tenant owns it, that tenant."""

import uuid
from datetime import UTC, datetime
from typing import Any

import uuid_utils.compat
from django.db import models


def new_id() -> uuid.UUID:
    """A UUIDv7: sortable by time of creation, safe to show outside."""
    return uuid_utils.compat.uuid7()


class Row(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        abstract = True


class TenantForeignKey(models.ForeignKey):  # type: ignore[type-arg]
    """A reference between two rows of one tenant.

    The constraint in the database is the composite ``(tenant_id, <field>_id) -> (tenant_id, id)``, made by
    ``gateway.schema.tenant_foreign_keys`` in a migration, so that a row cannot point across tenants even by
    a bug; Django's own single-column constraint would allow just that and is left out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["db_constraint"] = False
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        kwargs.pop("db_constraint", None)
        return name, path, args, kwargs


def first_id(moment: datetime) -> uuid.UUID:
    """The smallest UUIDv7 of ``moment`` (to the millisecond): bounds a range of rows by time through their key."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def moment_of(id: uuid.UUID) -> datetime:
    """When a UUIDv7 was made, in UTC."""
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)
