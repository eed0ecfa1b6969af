"""The second wall between tenants: inside it the database itself shows one tenant's rows and no others.

The first wall is that queries name their tenant. This one holds when one of them forgets to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connection, transaction

from gateway.schema import TENANT_ROLE, TENANT_SETTING


@contextmanager
def acting_as_tenant(tenant_id: UUID | str) -> Iterator[None]:
    """Work as one tenant, in a transaction (a savepoint inside another one), and as before afterwards.

    Row-level security then hides and refuses everybody else's rows; what the installation offers to all can be
    read. Postgres undoes both settings itself when the block is rolled back.
    """
    with transaction.atomic():
        before = _enter(str(tenant_id), TENANT_ROLE)
        yield
        _enter(*before)


def _enter(tenant_id: str, role: str) -> tuple[str, str]:
    """Set both for the rest of the transaction; returns what they were."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting(%s, true), ''), current_setting('role')", [TENANT_SETTING])
        setting, previous_role = cursor.fetchone()
        cursor.execute(
            "SELECT set_config(%s, %s, true), set_config('role', %s, true)", [TENANT_SETTING, tenant_id, role]
        )
    return setting, previous_role
