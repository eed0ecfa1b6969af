"""The book of alerts: opened once for each occasion, resolved once, with what is to be delivered.

An alert and its deliveries are written in one transaction, so that a worker that dies leaves both or neither.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from django.db import transaction

from billing.models import Alert, AlertChannel, AlertDelivery, AlertRule


def open_alert(alert: Alert, channels: Iterable[AlertChannel]) -> bool:
    """Write ``alert`` down and queue its message to ``channels``; False when its occasion has been opened before."""
    with transaction.atomic():
        Alert.objects.bulk_create([alert], ignore_conflicts=True)
        if not Alert.objects.filter(pk=alert.pk).exists():
            return False
        _queue(alert, AlertDelivery.Event.OPENED, [channel.pk for channel in channels], alert.opened_at)
    return True


def resolve_alert(alert_id: UUID, now: datetime) -> bool:
    """The condition is over: whoever was told that it began is told that it ended. False when it was over before."""
    with transaction.atomic():
        if not Alert.objects.filter(pk=alert_id, resolved_at=None).update(resolved_at=now):
            return False
        told = AlertDelivery.objects.filter(
            alert=alert_id, event=AlertDelivery.Event.OPENED, status=AlertDelivery.Status.SENT
        )
        alert = Alert.objects.get(pk=alert_id)
        _queue(alert, AlertDelivery.Event.RESOLVED, told.values_list("channel_id", flat=True), now)
    return True


def mark_sent(delivery: AlertDelivery, at: datetime) -> None:
    """The other side has taken the message. If its alert has been resolved meanwhile, that is told next."""
    with transaction.atomic():
        # The lock is the one that a resolution takes: either it sees this message as sent, or this sees it resolved.
        alert = Alert.objects.select_for_update().get(pk=delivery.alert_id)
        AlertDelivery.objects.filter(pk=delivery.pk).update(
            status=AlertDelivery.Status.SENT, sent_at=at, next_try_at=None, last_error=""
        )
        if delivery.event == AlertDelivery.Event.OPENED and alert.resolved_at is not None:
            _queue(alert, AlertDelivery.Event.RESOLVED, [delivery.channel_id], at)


def channels_of(rule: AlertRule) -> list[AlertChannel]:
    """The channels a rule names, or else all of its tenant; without those that are switched off or another's."""
    named = list(rule.channels.all())
    if not named:
        return default_channels(rule.tenant_id)
    return [channel for channel in named if channel.enabled and channel.tenant_id == rule.tenant_id]


def default_channels(tenant_id: UUID | None) -> list[AlertChannel]:
    """All that are switched on; without a tenant the operators' own."""
    return list(AlertChannel.objects.filter(tenant=tenant_id, enabled=True))


def highest_for_each_channel(
    told: Mapping[int, Iterable[AlertChannel]],
) -> dict[int, list[AlertChannel]]:
    """Of several thresholds passed at once, each with its channels, a channel is told of the highest one only."""
    highest: dict[UUID, tuple[int, AlertChannel]] = {}
    for threshold in sorted(told):
        highest.update({channel.pk: (threshold, channel) for channel in told[threshold]})
    return {threshold: [channel for reached, channel in highest.values() if reached == threshold] for threshold in told}


def _queue(alert: Alert, event: AlertDelivery.Event, channel_ids: Iterable[UUID], due_at: datetime) -> None:
    AlertDelivery.objects.bulk_create(
        [
            AlertDelivery(
                tenant_id=alert.tenant_id, alert=alert, channel_id=channel_id, event=event, next_try_at=due_at
            )
            for channel_id in channel_ids
        ],
        ignore_conflicts=True,
    )
