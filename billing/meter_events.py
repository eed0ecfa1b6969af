"""Tells Stripe what closed usage reports add up to: each unit once, whatever is cut short in between.

What is owed to a meter is the sum of a tenant's closed reports less the sum of the events there are. So a correction is
simply the next difference, one in the tenant's favour is set off against what follows, and no fraction of a micro-USD
is lost or counted twice. An event is a row before it is a call, and the row says whether its call may have arrived.
"""

import math
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Max, Sum, Value
from django.db.models.functions import Coalesce

from audit.actions import Action
from audit.record import Actor, record
from billing.models import MeterEvent, MeterValue, UsageReport
from billing.stripe_api import Refused, StripeFailed, Unanswered, is_configured, send_meter_event

SENT_AGAIN_FOR: Final = timedelta(hours=23)
"""Stripe knows an identifier for a day; an hour is left for clocks and slow answers."""

UNANSWERED_IN_A_ROW: Final = 3
"""After so many calls that nobody answers the rest waits for the next run."""

_MICRO: Final = 1_000_000
_WHOSE: Final = ("tenant_id", "stripe_customer", "meter_value")
_OPEN: Final = (MeterEvent.State.DUE, MeterEvent.State.SENDING)


def tell_stripe(now: datetime) -> dict[str, int]:
    """Make events of what is owed and send what is due; nothing without a key.

    For a job's record: ``events`` made, ``sent``, ``failed`` (the next run tries again) and ``unclear`` (all that wait
    for an operator).
    """
    if not is_configured():
        return {"events": 0, "sent": 0, "failed": 0, "unclear": 0}
    made = _make_events()
    _give_up_old_doubts(now)
    sent, failed = _send_all(now)
    unclear = MeterEvent.objects.filter(state=MeterEvent.State.UNCLEAR).count()
    return {"events": made, "sent": sent, "failed": failed, "unclear": unclear}


@transaction.atomic
def confirm(event: MeterEvent, actor: Actor) -> bool:
    """An operator has found it at Stripe. False where it was not unclear: then nothing happens."""
    return _decide(event, MeterEvent.State.SENT, Action.METER_EVENT_CONFIRMED, actor)


@transaction.atomic
def repeat(event: MeterEvent, actor: Actor) -> bool:
    """An operator has looked, and it is not at Stripe: it is sent with the next run. False as for :func:`confirm`."""
    return _decide(event, MeterEvent.State.DUE, Action.METER_EVENT_REPEATED, actor)


def _decide(event: MeterEvent, state: MeterEvent.State, action: Action, actor: Actor) -> bool:
    decided = MeterEvent.objects.filter(pk=event.pk, state=MeterEvent.State.UNCLEAR).update(
        state=state, in_doubt_since=None
    )
    if decided:
        changes = {"state": [MeterEvent.State.UNCLEAR, state]}
        record(actor, action, event, tenant=event.tenant, changes=changes)
    return bool(decided)


@transaction.atomic
def _make_events() -> int:
    """One worker at a time: two would both make what is owed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('pointsman meter events', 0))")
    told = {tuple(row[:3]): row[3] for row in MeterEvent.objects.order_by().values_list(*_WHOSE).annotate(Sum("value"))}
    closed = UsageReport.objects.exclude(closed_at=None).exclude(stripe_customer="").order_by()
    made = 0
    for value in MeterValue:
        used = closed.filter(meter_value=value).values(*_WHOSE)
        for row in used.annotate(used=Sum(_column(value)), newest=Max("day")):
            owed = _units(value, row["used"]) - told.get(tuple(row[name] for name in _WHOSE), 0)
            if owed > 0:
                _make_event(row, owed)
                made += 1
    return made


def _make_event(row: dict[str, Any], owed: int) -> None:
    named = {"tenant_id": row["tenant_id"], "meter_value": row["meter_value"], "day": row["newest"]}
    earlier = MeterEvent.objects.filter(**named).aggregate(highest=Max("revision"))["highest"] or 0
    MeterEvent.objects.create(**named, stripe_customer=row["stripe_customer"], revision=earlier + 1, value=owed)


def _column(value: str) -> str:
    return "spend_usd" if value == MeterValue.SPEND else value


def _units(value: str, used: Any) -> int:
    """Rounded once, over everything: what is less than a unit waits for the next."""
    return math.floor(used * _MICRO) if value == MeterValue.SPEND else int(used)


def _give_up_old_doubts(now: datetime) -> None:
    MeterEvent.objects.filter(state__in=_OPEN, in_doubt_since__lt=now - SENT_AGAIN_FOR).update(
        state=MeterEvent.State.UNCLEAR
    )


def _send_all(now: datetime) -> tuple[int, int]:
    """The oldest first; returns how many arrived and how many did not. When Stripe seems to be away, the rest waits."""
    sent = failed = unanswered = 0
    for event in MeterEvent.objects.filter(state__in=_OPEN).order_by("day", "id"):
        try:
            _send(event, now)
        except StripeFailed as exc:
            failed += 1
            unanswered = unanswered + 1 if isinstance(exc, Unanswered) else 0
        else:
            sent, unanswered = sent + 1, 0
        if unanswered >= UNANSWERED_IN_A_ROW:
            break
    return sent, failed


def _send(event: MeterEvent, now: datetime) -> None:
    """Raises StripeFailed, having written down what is known then.

    Changes only what is still open: another worker may send the same event, and know better.
    """
    row = MeterEvent.objects.filter(pk=event.pk, state__in=_OPEN)
    meter = settings.STRIPE_METER
    row.update(
        state=MeterEvent.State.SENDING,
        in_doubt_since=Coalesce("in_doubt_since", Value(now)),
        tries=F("tries") + 1,
        meter=meter,
    )
    try:
        send_meter_event(meter, event.stripe_customer, event.value, event.identifier)
    except Refused as exc:
        row.update(error=str(exc)[:500])
        # An earlier call, or another worker's, may have arrived, whatever became of this one.
        row.filter(in_doubt_since=now).update(state=MeterEvent.State.DUE, in_doubt_since=None)
        raise
    except Unanswered as exc:
        row.update(error=str(exc)[:500])
        raise
    # Also where an operator has decided meanwhile: Stripe has it.
    MeterEvent.objects.filter(pk=event.pk).update(
        state=MeterEvent.State.SENT, in_doubt_since=None, sent_at=now, error=""
    )
