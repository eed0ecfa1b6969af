"""The circuit breakers as people see and switch them: one for each deployment of a model.

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
from django.db.models import Q, QuerySet

from audit.actions import Action
from audit.record import Actor, record
from gateway.models import Deployment, Model, ProviderKey
from gateway.providers.breaker import State
from gateway.providers.health import (
    SHARED_KEY,
    WRITE_SCRIPT,
    SharedCircuit,
    decode_shared,
    reset_by_hand,
    tripped_by_hand,
)

REDIS_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state of one target, for all processes together. ``retry_at`` is when it is tried again, or could
    have been if anybody had called; None while closed or held by hand."""

    way: Deployment
    state: State
    since: datetime | None
    retry_at: datetime | None
    last_error: str
    by_hand: bool


class CircuitsUnavailable(Exception):
    """Redis, where processes share their breakers, cannot be asked."""


def circuits_of(models: QuerySet[Model]) -> list[Circuit]:
    """Open ones first. Raises CircuitsUnavailable."""
    rows = models.select_related("provider", "tenant").prefetch_related("deployments__provider")
    ways = [way for row in rows for way in row.ways()]
    names, shared = _names(ways), _read()
    circuits = [_circuit(way, shared.get(names[way.pk])) for way in ways]
    return sorted(circuits, key=lambda circuit: (circuit.state == "closed", str(circuit.way)))


def find(models: QuerySet[Model], way_id: uuid.UUID) -> Deployment | None:
    """The deployment of one of ``models`` with this id, which for a model's own provider is the model's."""
    model = models.filter(Q(pk=way_id) | Q(deployments=way_id)).select_related("provider", "tenant").first()
    return next((way for way in model.ways() if way.pk == way_id), None) if model else None


def circuit_of(way: Deployment) -> Circuit:
    """Raises CircuitsUnavailable."""
    return _circuit(way, _read().get(_names([way])[way.pk]))


@transaction.atomic
def trip(way: Deployment, actor: Actor) -> None:
    """Leave this deployment alone until somebody resets it. Raises CircuitsUnavailable."""
    _record(Action.CIRCUIT_TRIPPED, way, actor)
    _write(way, tripped_by_hand())


@transaction.atomic
def reset(way: Deployment, actor: Actor) -> None:
    """Use this deployment again from now on. Raises CircuitsUnavailable."""
    _record(Action.CIRCUIT_RESET, way, actor)
    _write(way, reset_by_hand())


def _record(action: Action, way: Deployment, actor: Actor) -> None:
    record(actor, action, way.model, tenant=way.model.tenant, changes={"provider": [None, way.provider.name]})


def _names(ways: list[Deployment]) -> Mapping[uuid.UUID, str]:
    """What the serving processes call each circuit."""
    active = ProviderKey.objects.filter(
        provider__in={way.provider_id for way in ways}, status=ProviderKey.Status.ACTIVE
    )
    keys = dict(active.values_list("provider_id", "pk"))
    return {way.pk: f"{keys.get(way.provider_id, way.provider_id)}/{way.effective_vendor_model}" for way in ways}


def _circuit(way: Deployment, entry: SharedCircuit | None) -> Circuit:
    if entry is None or entry.state == "closed":
        return Circuit(way, "closed", None, None, "", by_hand=False)
    since, retry_at = datetime.fromtimestamp(entry.at, UTC), datetime.fromtimestamp(entry.retry_at, UTC)
    if entry.by_hand:
        return Circuit(way, "open", since, None, entry.error, by_hand=True)
    state: State = "open" if time.time() < entry.retry_at else "half_open"
    return Circuit(way, state, since, retry_at, entry.error, by_hand=False)


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
    return decode_shared(entries)  # type: ignore[arg-type] # redis-py types sync and async at once


def _write(way: Deployment, entry: SharedCircuit) -> None:
    try:
        with _connection() as connection:
            connection.eval(WRITE_SCRIPT, 1, SHARED_KEY, _names([way])[way.pk], msgspec.json.encode(entry).decode())
    except (redis.RedisError, OSError) as exc:
        raise CircuitsUnavailable from exc
