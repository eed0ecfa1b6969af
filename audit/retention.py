"""The end of audit events that nobody keeps any longer.

A chain stays verifiable: only its oldest events go, all of them up to one place, and a checkpoint keeps the digest that
the next event follows. The database removes them in a function of its own, which writes the checkpoint; the gateway's
role can do neither by itself. That it happened is an event of the same chain. A chain that is broken in what would go
is left as it is, with the evidence.

How long a tenant's events are kept is its plan's ``audit_retention_days``; those of tenants without a plan, and the
installation's own, as long as AUDIT_RETENTION_DAYS says. 0 is for ever.
"""

import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction

from audit.models import AuditCheckpoint, AuditEvent
from audit.record import Actor, record_removal, verify_chain
from gateway.rows import new_id

logger = logging.getLogger(__name__)

EVENTS_AT_A_TIME: Final = 10_000
_ACTOR: Final = Actor("audit retention")
_LONGEST_DAYS: Final = 36_500 // 2  # the calendar begins in 1970

# The tables of plans stand above this floor.
_DAYS: Final = """
SELECT t.id, coalesce((s.overrides ->> 'audit_retention_days')::bigint, p.audit_retention_days, %(others)s)
FROM tenants_tenant t
LEFT JOIN billing_subscription s ON s.tenant_id = t.id
LEFT JOIN billing_plan p ON p.id = s.plan_id
UNION ALL SELECT NULL, %(others)s
"""


def remove_old_events(now: datetime | None = None) -> dict[str, Any]:
    """Remove, chain by chain, the events of days that are kept no longer. For the job's record: ``events`` and
    ``chains`` (counts of what was removed) and ``broken`` (chains that were left, by tenant; "" is the installation).
    """
    now = now or datetime.now(UTC)
    events = chains = 0
    broken: list[str] = []
    for chain, days in _days_kept():
        before = (now.astimezone(UTC) - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
        if not _has_older(chain, before):
            continue
        if _is_broken(chain, before):
            logger.error("the audit chain of %s is broken, nothing is removed from it", chain or "the installation")
            broken.append(str(chain or ""))
            continue
        removed = _remove(chain, before)
        events, chains = events + removed, chains + bool(removed)
    return {"events": events, "chains": chains, "broken": broken}


def _days_kept() -> Iterator[tuple[uuid.UUID | None, int]]:
    """Chains that do not stay for ever."""
    with connection.cursor() as cursor:
        cursor.execute(_DAYS, {"others": int(settings.AUDIT_RETENTION_DAYS)})
        found = cursor.fetchall()
    yield from ((chain, min(days, _LONGEST_DAYS)) for chain, days in found if days > 0)


def _has_older(chain: uuid.UUID | None, before: datetime) -> bool:
    oldest = AuditEvent.objects.filter(tenant=chain).order_by("sequence").first()
    return oldest is not None and oldest.at < before


def _is_broken(chain: uuid.UUID | None, before: datetime) -> bool:
    tenant = AuditEvent(tenant_id=chain).tenant if chain else None
    return bool(verify_chain(tenant, until=before))


def _remove(chain: uuid.UUID | None, before: datetime) -> int:
    """A part at a time, as nobody can append to the chain meanwhile; returns how many."""
    total = 0
    while True:
        with transaction.atomic():
            removed = _remove_some(chain, before)
        total += removed
        if removed < EVENTS_AT_A_TIME:
            return total


def _remove_some(chain: uuid.UUID | None, before: datetime) -> int:
    key = new_id()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pointsman_remove_audit_events(%s, %s, %s, %s)", [key, chain, before, EVENTS_AT_A_TIME])
        (removed,) = cursor.fetchone()
    if removed:
        record_removal(_ACTOR, AuditCheckpoint.objects.get(pk=key))
    return int(removed)
