"""The circuit breakers as people see and switch them: one for each model of a provider.

The breakers themselves live in the serving processes (:mod:`gateway.providers.health`); what they share through
Redis is read here, and an operator's word is left there for them.
"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import redis
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from audit.actions import Action
from audit.record import Actor, record
from gateway.models import Model, ProviderKey
from gateway.providers.breaker import State
from gateway.providers.health import SHARED_KEY, WRITE_SCRIPT, SharedCircuit, reset_by_hand, tripped_by_hand

REDIS_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of one model's target, for all processes together. ``retry_at`` is when it is tried again, or could
    have been if anybody had called; None while closed or held by hand."""

    model: Model
    state: State
    since: datetime | None
    retry_at: datetime | None
    last_error: str
    by_hand: bool


class CircuitsUnavailable(Exception):
    """Redis, where processes share their breakers, cannot be asked."""


def circuits_of(models: QuerySet[Model]) -> list[Circuit]:
    """Open ones first. Raises CircuitsUnavailable."""
    rows = list(models.select_related("provider", "tenant"))
    names = _names(rows)
    shared = _read()
    circuits = [_circuit(row, shared.get(names[row.pk])) for row in rows]
    return sorted(circuits, key=lambda circuit: (circuit.state == "closed", str(circuit.model)))


@transaction.atomic
def trip(model: Model, actor: Actor) -> None:
    """Leave this model's target alone until somebody resets it. Raises CircuitsUnavailable."""
    record(actor, Action.CIRCUIT_TRIPPED, model, tenant=model.tenant)
    _write(model, tripped_by_hand())


@transaction.atomic
def reset(model: Model, actor: Actor) -> None:
    """Use this model's target again from now on. Raises CircuitsUnavailable."""
    record(actor, Action.CIRCUIT_RESET, model, tenant=model.tenant)
    _write(model, reset_by_hand())


def _names(rows: list[Model]) -> Mapping[uuid.UUID, str]:
    """What the serving processes call each model's circuit."""
    active = ProviderKey.objects.filter(
        provider__in={row.provider_id for row in rows}, status=ProviderKey.Status.ACTIVE
    )
    keys = dict(active.values_list("provider_id", "pk"))
    return {row.pk: f"{keys.get(row.provider_id, row.provider_id)}/{row.vendor_model}" for row in rows}


def _circuit(model: Model, entry: SharedCircuit | None) -> Circuit:
    if entry is None or entry.state == "closed":
        return Circuit(model, "closed", None, None, "", by_hand=False)
    since, retry_at = datetime.fromtimestamp(entry.at, UTC), datetime.fromtimestamp(entry.retry_at, UTC)
    if entry.by_hand:
        return Circuit(model, "open", since, None, entry.error, by_hand=True)
    state: State = "open" if time.time() < entry.retry_at else "half_open"
    return Circuit(model, state, since, retry_at, entry.error, by_hand=False)


def _connection() -> "redis.Redis":
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    )


def _read() -> dict[str, SharedCircuit]:
    try:
        with _connection() as connection:
            entries = connection.hgetall(SHARED_KEY)
    except (redis.RedisError, OSError) as exc:
        raise CircuitsUnavailable from exc
    return {name.decode(): msgspec.json.decode(raw, type=SharedCircuit) for name, raw in entries.items()}  # type: ignore[union-attr]


def _write(model: Model, entry: SharedCircuit) -> None:
    try:
        with _connection() as connection:
            connection.eval(WRITE_SCRIPT, 1, SHARED_KEY, _names([model])[model.pk], msgspec.json.encode(entry).decode())
    except (redis.RedisError, OSError) as exc:
        raise CircuitsUnavailable from exc
