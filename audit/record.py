"""Writes the audit trail: one event for every act of management, in the transaction that acts.

Each tenant has a chain of events, the installation (no tenant) one of its own. An event's digest covers the
event and its predecessor's digest, so a row that is changed, moved or missing shows; the database refuses
to change or delete rows in the first place. What a chain alone cannot show is that its *newest* events were
cut off: keep an exported digest elsewhere for that. Its oldest events go when nobody keeps them any longer
(:mod:`audit.retention`); the chain then begins at a checkpoint that one of its own events confirms.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, models

from audit.actions import Action
from audit.models import AuditCheckpoint, AuditEvent

Changes = Mapping[str, Any]

MASK: Final = "***"
"""Stands in a change for a value that is a secret."""

_FIRST_PREDECESSOR: Final = bytes(32)
_UNINTERESTING: Final = frozenset({"id", "created_at", "updated_at", "policy_epoch"})
_SECRET_FIELDS: Final = frozenset({"password"})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a person, or what runs by itself or from a shell (then without ``user``)."""

    label: str
    user: AbstractBaseUser | None = None
    client_ip: str | None = None

    @classmethod
    def person(cls, user: AbstractBaseUser, client_ip: str | None = None) -> "Actor":
        return cls(user.get_username(), user, client_ip)


def record(
    actor: Actor,
    action: str,
    obj: models.Model | None,
    *,
    tenant: models.Model | None,
    changes: Changes | None = None,
) -> AuditEvent:
    """Append one event to the tenant's chain, or to the installation's where ``tenant`` is None.

    ``action`` is one of :class:`audit.actions.Action`, or worded like them. ``obj`` is what was acted upon; None
    means the installation as a whole. ``changes`` is free of secrets (see :func:`changes_between`).

    The caller's transaction is the event's: both happen or neither. Writers of one chain wait for each other
    until they commit. Raises RuntimeError outside a transaction.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("an act and its audit event belong in one transaction")
    tenant_id = tenant.pk if tenant is not None else None
    _lock_chain(tenant_id)
    last = AuditEvent.objects.filter(tenant=tenant_id).order_by("-sequence").first()
    event = AuditEvent(
        tenant_id=tenant_id,
        sequence=last.sequence + 1 if last else 1,
        at=datetime.now(UTC),
        actor_id=actor.user.pk if actor.user else None,
        actor_label=actor.label[:254],
        action=str(action),
        object_type=obj._meta.label_lower if obj else "",
        object_id=str(obj.pk) if obj else "",
        object_label=str(obj)[:254] if obj else "",
        changes=_as_stored(changes or {}),
        client_ip=actor.client_ip,
        previous_digest=bytes(last.digest) if last else _FIRST_PREDECESSOR,
    )
    event.digest = _digest(event)
    event.save(force_insert=True)
    return event


def verify_chain(tenant: models.Model | None, *, until: datetime | None = None) -> list[int]:
    """Sequence numbers at which the chain is broken, in order; none when it is whole.

    A number is broken when its row is missing, was changed, does not follow the row before it, or is said to have been
    removed and is there; a checkpoint's when no event of the chain confirms it. With ``until``, what comes after the
    first event of that moment or later is not looked at.
    """
    tenant_id = tenant.pk if tenant else None
    checkpoint = AuditCheckpoint.objects.filter(tenant=tenant_id).order_by("-sequence").first()
    broken: list[int] = []
    expected, previous = 1, _FIRST_PREDECESSOR
    if checkpoint is not None:
        expected, previous = checkpoint.sequence + 1, bytes(checkpoint.digest)
        broken += [] if _is_confirmed(checkpoint) else [checkpoint.sequence]
    for event in AuditEvent.objects.filter(tenant=tenant_id).order_by("sequence").iterator():
        if event.sequence < expected:
            broken.append(event.sequence)
            continue
        missing = range(expected, event.sequence)
        broken += missing
        follows = bytes(event.previous_digest) == previous or bool(missing)
        if not follows or bytes(event.digest) != _digest(event):
            broken.append(event.sequence)
        expected, previous = event.sequence + 1, bytes(event.digest)
        if until is not None and event.at >= until:
            break
    return broken


def record_removal(actor: Actor, checkpoint: AuditCheckpoint) -> AuditEvent:
    """The event that confirms a checkpoint, in its own chain. Belongs into the transaction that removes."""
    changes = _removal(checkpoint)
    return record(actor, Action.AUDIT_REMOVED, checkpoint, tenant=checkpoint.tenant, changes=changes)


def _removal(checkpoint: AuditCheckpoint) -> dict[str, list[Any]]:
    facts = {
        "sequence": checkpoint.sequence,
        "digest": bytes(checkpoint.digest).hex(),
        "removed_before": checkpoint.removed_before.astimezone(UTC).isoformat(),
        "events_removed": checkpoint.events_removed,
    }
    return {name: [None, value] for name, value in facts.items()}


def _is_confirmed(checkpoint: AuditCheckpoint) -> bool:
    confirming = AuditEvent.objects.filter(
        tenant=checkpoint.tenant_id,
        sequence__gt=checkpoint.sequence,
        action=Action.AUDIT_REMOVED,
        object_id=str(checkpoint.pk),
    ).first()
    return confirming is not None and confirming.changes == _removal(checkpoint)


def changes_between(before: models.Model | None, after: models.Model | None) -> dict[str, list[Any]]:
    """``{field: [old, new]}`` for what differs; None stands for a row that is not there yet or any more.

    References are given by their key. Secrets (passwords, digests, ciphertexts) show only that they changed.
    """
    changes: dict[str, list[Any]] = {}
    for field in _fields(before or after):
        old, new = (getattr(row, field.attname) if row is not None else None for row in (before, after))
        if old == new:
            continue
        changes[field.name] = [_masked(value) if _is_secret(field) else value for value in (old, new)]
    return changes


def _fields(row: models.Model | None) -> Iterator["models.Field[Any, Any]"]:
    if row is not None:
        yield from (field for field in row._meta.concrete_fields if field.name not in _UNINTERESTING)


def _masked(value: Any) -> str | None:
    """Empty bytes, which no event can hold, are no secret either."""
    return MASK if value else None


def _is_secret(field: "models.Field[Any, Any]") -> bool:
    return isinstance(field, models.BinaryField) or field.name in _SECRET_FIELDS


def _lock_chain(tenant_id: Any) -> None:
    """One writer of a chain at a time, until its transaction ends: two would follow the same predecessor."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"audit chain of {tenant_id}"])


def _as_stored(changes: Changes) -> Any:
    """Just as the database will give it back: it writes some numbers differently, so fractions become text."""
    return json.loads(json.dumps(changes, cls=DjangoJSONEncoder), parse_float=str)


def _digest(event: AuditEvent) -> bytes:
    facts = {
        "id": str(event.pk),
        "tenant": _text(event.tenant_id),
        "sequence": event.sequence,
        "at": event.at.astimezone(UTC).isoformat(),
        "actor": _text(event.actor_id),
        "actor_label": event.actor_label,
        "action": event.action,
        "object": [event.object_type, event.object_id, event.object_label],
        "changes": event.changes,
        "client_ip": str(ip_address(event.client_ip)) if event.client_ip else None,
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(bytes(event.previous_digest) + canonical.encode()).digest()


def _text(key: Any) -> str | None:
    return None if key is None else str(key)
