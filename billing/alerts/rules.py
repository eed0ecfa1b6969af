"""Rules: opened once when a condition begins, resolved when it is over, not again within the cooldown.

An alert's occasion names the one before it, so of any number of workers that see the same beginning one opens it, and
a late one that has missed an end opens nothing.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from django.db import DatabaseError
from django.db.models import CharField, F, Func, Q, Value

from billing.alerts.book import channels_of, open_alert, resolve_alert
from billing.alerts.measures import Reading, TrippedCircuit, TrippedCircuits, changed, measure, tripped
from billing.models import Alert, AlertRule

logger = logging.getLogger(__name__)

_FIRST: Final = "first"


def evaluate_rules(now: datetime, tripped_circuits: TrippedCircuits | None = None) -> dict[str, int]:
    """Look at every rule that is switched on. Returns counts: rules, opened, resolved, failed.

    ``tripped_circuits`` is asked once, and only if a rule watches circuit breakers; without an answer those rules
    neither open nor resolve anything. A rule that the database cannot evaluate is logged and does not stop the others.
    """
    counts = {"rules": 0, "opened": 0, "resolved": _resolve_what_nobody_watches(now), "failed": 0}
    rules = AlertRule.objects.filter(enabled=True).exclude(kind=AlertRule.Kind.BUDGET).order_by("id")
    circuits = _Circuits(tripped_circuits)
    for rule in rules.select_related("project").prefetch_related("channels"):
        try:
            latest = _latest(rule)  # before it is measured: what others do from here on makes this one late
            readings = _readings(rule, circuits, now)
            opened, resolved = (0, 0) if readings is None else _act(rule, latest, readings, now)
        except DatabaseError:
            logger.exception("alert rule %s cannot be evaluated", rule.pk)
            counts["failed"] += 1
            continue
        counts["rules"] += 1
        counts["opened"] += opened
        counts["resolved"] += resolved
    return counts


def _readings(rule: AlertRule, circuits: "_Circuits", now: datetime) -> list[Reading] | None:
    if rule.kind == AlertRule.Kind.BREAKER_OPEN:
        return circuits.readings(rule)
    return changed(rule, now) if rule.kind == AlertRule.Kind.QUALITY_DROP else measure(rule, now)


class _Circuits:
    """Asks at most once, as the first rule wants to know."""

    def __init__(self, ask: TrippedCircuits | None) -> None:
        self._ask = ask
        self._answer: list[TrippedCircuit] | None = None

    def readings(self, rule: AlertRule) -> list[Reading] | None:
        if self._ask is not None:
            answer, self._ask = self._ask(), None
            self._answer = None if answer is None else list(answer)
        return None if self._answer is None else tripped(rule, self._answer)


def _latest(rule: AlertRule) -> dict[str, Alert]:
    """The newest alert of each thing the rule is about."""
    about = Func(F("occasion"), Value(":"), Value(3), function="split_part", output_field=CharField())
    alerts = rule.alerts.annotate(about=about).order_by("about", "-opened_at", "-id").distinct("about")
    return {alert.about: alert for alert in alerts}


def _act(rule: AlertRule, latest: Mapping[str, Alert], readings: list[Reading], now: datetime) -> tuple[int, int]:
    """Returns how many alerts were opened and resolved."""
    over = {reading.about: reading for reading in readings if reading.over}
    still_open = {about: alert for about, alert in latest.items() if alert.resolved_at is None}
    resolved = sum(resolve_alert(alert.pk, now) for about, alert in still_open.items() if about not in over)
    begun = [reading for about, reading in over.items() if reading.telling and about not in still_open]
    return sum(_open(rule, latest.get(reading.about), reading, now) for reading in begun), resolved


def _open(rule: AlertRule, last: Alert | None, reading: Reading, now: datetime) -> bool:
    if last is not None and last.opened_at > now - timedelta(minutes=rule.cooldown_minutes):
        return False
    alert = Alert(
        tenant_id=rule.tenant_id,
        rule=rule,
        kind=rule.kind,
        occasion=f"rule:{rule.pk}:{reading.about}:{last.pk if last else _FIRST}",
        message=reading.message[:1000],
        facts={
            "rule": rule.name,
            "project": rule.project.slug if rule.project else None,
            "model": rule.model_name or None,
            "window_minutes": rule.window_minutes,
            **reading.facts,
        },
        opened_at=now,
    )
    return open_alert(alert, channels_of(rule))


def _resolve_what_nobody_watches(now: datetime) -> int:
    """Alerts whose rule was switched off or deleted would stay open for ever."""
    orphans = Alert.objects.filter(Q(rule=None) | Q(rule__enabled=False), resolved_at=None)
    left = orphans.exclude(kind=AlertRule.Kind.BUDGET).values_list("pk", flat=True)
    return sum(resolve_alert(alert_id, now) for alert_id in left)
