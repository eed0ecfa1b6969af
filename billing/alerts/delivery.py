"""Delivery: every queued message is tried until the other side has taken it, or given up after half a day.

A worker claims what is due for a while and sends outside of any transaction; a worker that dies leaves its claim to
run out, and the message is sent again with the same id. So each message arrives at least once, and once unless a
worker dies between sending and writing that down.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from billing.alerts.book import mark_sent
from billing.alerts.messages import Message
from billing.alerts.sending import NotTaken, guarded_transport, send
from billing.features import Entitlement
from billing.models import AlertChannel, AlertDelivery, Subscription
from gateway.providers.transport import Transport
from gateway.rows import new_id

logger = logging.getLogger(__name__)

BACK_OFF: Final = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=12),
)
LONGEST_ASKED: Final = timedelta(hours=1)
"""For which an endpoint that asks to be left alone (Retry-After) is left alone."""
CLAIM: Final = timedelta(minutes=10)
"""Longer than a batch can take: every message of it has a deadline, and they go out together."""
BATCH: Final = 16
MOST_BATCHES: Final = 32
"""Of one run; what is left is the next run's."""

_LONGEST_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class _Sent:
    delivery: AlertDelivery
    refusal: NotTaken | None


def deliver_pending(now: datetime) -> dict[str, Any]:
    """Send what is due at ``now``. Returns counts: sent, retried (to be tried again), failed (given up); and, as
    ``not_in_plan``, the tenants whose plan leaves webhooks out, where something was given up for that."""
    counts: dict[str, Any] = {"sent": 0, "retried": 0, "failed": 0}
    started = time.monotonic()
    without = Subscription.without("webhooks")
    skipped: set[str] = set()
    for _ in range(MOST_BATCHES):
        claimed = _claim(now)
        if not claimed:
            break
        for outcome in asyncio.run(_send_all(claimed, without)):
            counts[_write_down(outcome, now + timedelta(seconds=time.monotonic() - started))] += 1
            channel = outcome.delivery.channel
            if channel.tenant is not None and _beyond_plan(channel, without):
                skipped.add(channel.tenant.slug)
    return counts | ({"not_in_plan": sorted(skipped)} if skipped else {})


def send_test(channel: AlertChannel) -> str | None:
    """Send a message that says it is a test. None: it was taken; else why not."""
    now = timezone.now().isoformat()
    alert: dict[str, Any] = {
        "id": str(new_id()),
        "kind": "test",
        "message": f'The channel "{channel.name}" works.',
        "opened_at": now,
        "resolved_at": None,
        "facts": {},
    }
    message = Message(str(new_id()), "test", channel.tenant.slug if channel.tenant else None, alert)
    refusal = asyncio.run(_send_test(channel, message, Subscription.without("webhooks")))
    return refusal.reason if refusal else None


def _claim(now: datetime) -> list[AlertDelivery]:
    """Due messages that no other worker has: until the claim runs out they are this one's."""
    due = AlertDelivery.objects.filter(status=AlertDelivery.Status.PENDING, next_try_at__lte=now)
    with transaction.atomic():
        ids = [row.pk for row in due.select_for_update(skip_locked=True).order_by("next_try_at")[:BATCH]]
        AlertDelivery.objects.filter(pk__in=ids).update(tries=F("tries") + 1, next_try_at=now + CLAIM)
    return list(
        AlertDelivery.objects.filter(pk__in=ids).select_related("alert__tenant", "channel__tenant").order_by("id")
    )


async def _send_all(claimed: list[AlertDelivery], without: Mapping[UUID, Entitlement]) -> list[_Sent]:
    async with guarded_transport() as transport:
        refusals = await asyncio.gather(
            *(_try(delivery.channel, _message(delivery), transport, without) for delivery in claimed)
        )
    return [_Sent(delivery, refusal) for delivery, refusal in zip(claimed, refusals, strict=True)]


async def _send_test(channel: AlertChannel, message: Message, without: Mapping[UUID, Entitlement]) -> NotTaken | None:
    async with guarded_transport() as transport:
        return await _try(channel, message, transport, without)


def _beyond_plan(channel: AlertChannel, without: Mapping[UUID, Entitlement]) -> Entitlement | None:
    """What a channel's tenant may use, where that leaves such a channel out."""
    if channel.kind == AlertChannel.Kind.EMAIL or channel.tenant_id is None:
        return None
    return without.get(channel.tenant_id)


async def _try(
    channel: AlertChannel, message: Message, transport: Transport, without: Mapping[UUID, Entitlement]
) -> NotTaken | None:
    if not channel.enabled and message.event != "test":
        return NotTaken("The channel is switched off.", final=True)
    if (entitlement := _beyond_plan(channel, without)) is not None:
        return NotTaken(entitlement.refusal("webhooks"), final=True)
    try:
        await send(channel, message, transport)
    except NotTaken as exc:
        return exc
    except Exception as exc:  # noqa: BLE001  # one message's mistake is not the others'
        # Without its text, which may quote the address: that of a Slack webhook is a secret.
        logger.error("message %s cannot be sent: %s", message.id, type(exc).__name__)
        return NotTaken(f"The message could not be sent ({type(exc).__name__}).")
    return None


def _message(delivery: AlertDelivery) -> Message:
    alert = delivery.alert
    told: dict[str, Any] = {
        "id": str(alert.pk),
        "kind": alert.kind,
        "message": alert.message,
        "opened_at": alert.opened_at.isoformat(),
        "resolved_at": None,
        "facts": alert.facts,
    }
    if delivery.event == AlertDelivery.Event.RESOLVED and alert.resolved_at is not None:
        told["resolved_at"] = alert.resolved_at.isoformat()
    return Message(str(delivery.pk), delivery.event, alert.tenant.slug if alert.tenant else None, told)


def _write_down(outcome: _Sent, at: datetime) -> str:
    """Returns the count it goes to. ``at`` is the moment the message was taken or refused."""
    delivery, refusal = outcome.delivery, outcome.refusal
    if refusal is None:
        mark_sent(delivery, at)
        return "sent"
    given_up = refusal.final or delivery.tries > len(BACK_OFF)
    # A claim that has run out meanwhile is another worker's: its tries tell it apart.
    AlertDelivery.objects.filter(pk=delivery.pk, tries=delivery.tries, status=AlertDelivery.Status.PENDING).update(
        status=AlertDelivery.Status.FAILED if given_up else AlertDelivery.Status.PENDING,
        next_try_at=None if given_up else at + _pause(delivery, refusal),
        last_error=refusal.reason[:_LONGEST_ERROR],
    )
    return "failed" if given_up else "retried"


def _pause(delivery: AlertDelivery, refusal: NotTaken) -> timedelta:
    asked = timedelta(seconds=min(refusal.retry_after_s, LONGEST_ASKED.total_seconds()))
    return max(BACK_OFF[delivery.tries - 1], asked)
