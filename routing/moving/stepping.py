"""Ramps step by step: what follows on what was seen since the last one."""

import logging
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from audit.actions import Action
from audit.record import Actor, record
from billing.entitlements import within_plan
from routing.migration import Step, next_step
from routing.models import Experiment, Ramp, RoutingSettings
from routing.moving.seen import Seen, take_in
from routing.trials.ramps import any_concerns, end_ramp

logger = logging.getLogger(__name__)

ACTOR: Final = Actor("cost migration")
CLAIMED_FOR: Final = timedelta(days=28)  # after it has taken over: later nobody knows what the former would have cost


def step_ramps(now: datetime) -> dict[str, Any]:
    """Look at every migration under way. Returns how many ``advanced``, are ``done``, were ``rolled_back`` or
    ``failed``, and what is ``told`` of them. Those whose tenant's plan leaves experiments out move no requests, and are
    passed over.

    One ramp's look is one transaction; a second worker passes it over.
    """
    under_way = Q(status=Ramp.Status.ACTIVE) | Q(status=Ramp.Status.DONE, since__gt=now - CLAIMED_FOR)
    ramps = Ramp.objects.filter(under_way, source=Ramp.Source.MIGRATION, tenant__enabled=True)
    ramps, skipped = within_plan(ramps, "experiments")
    facts: dict[str, Any] = {"advanced": 0, "done": 0, "rolled_back": 0, "failed": 0, "told": [], **skipped}
    for key in list(ramps.order_by("pk").values_list("pk", flat=True)):
        try:
            told = _look(key, now)
        except Exception:  # one tenant's trouble is not the others'
            logger.exception("ramp %s cannot be evaluated", key)
            facts["failed"] += 1
            continue
        if told is not None:
            what, ramp = told
            facts[what] += 1
            facts["told"].append(f"{ramp.tenant.slug}/{ramp}: {ramp.percent} %, {ramp.reason}")
    return facts


@transaction.atomic
def _look(key: UUID, now: datetime) -> tuple[str, Ramp] | None:
    """What was done, by its name in the job's facts."""
    locked = Ramp.objects.select_for_update(skip_locked=True, of=("self",)).select_related("tenant")
    ramp = locked.filter(pk=key, source=Ramp.Source.MIGRATION).exclude(status=Ramp.Status.ROLLED_BACK).first()
    if ramp is None or ramp.status == Ramp.Status.ENDED:
        return None
    seen = Seen.from_json(ramp.evidence["seen"])
    found = take_in(ramp, seen, now)
    if found:
        _keep(ramp, seen)
    done = None
    if ramp.status == Ramp.Status.ACTIVE and not _experiment_runs(ramp):
        done = _take(ramp, seen, next_step(ramp.percent, seen.evidence(_hours(ramp, now))), now)
    if done is not None:
        return done, ramp
    if found:
        ramp.save(update_fields=("evidence", "saved_usd", "updated_at"))
    return None


def _take(ramp: Ramp, seen: Seen, step: Step, now: datetime) -> str | None:
    """Do what follows; None where that is to wait."""
    if step.action == "roll_back":
        _remember(ramp, seen, step, now)
        end_ramp(ramp, ACTOR, step.reason, now, Ramp.Status.ROLLED_BACK)
        return "rolled_back"
    if not (step.done or step.action == "advance") or not RoutingSettings.of(ramp.tenant).auto_migrate:
        return None
    before = {"percent": ramp.percent, "status": str(ramp.status)}
    _remember(ramp, seen, step, now)
    if step.done:
        ramp.status = Ramp.Status.DONE
    else:
        ramp.percent = step.percent
        ramp.evidence["seen"] = seen.following(step.percent).to_json()
    ramp.since, ramp.reason = now, step.reason[:500]
    ramp.save()
    after = {"percent": ramp.percent, "status": str(ramp.status)}
    changes: dict[str, Any] = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
    record(ACTOR, Action.RAMP_CHANGED, ramp, tenant=ramp.tenant, changes=changes | {"reason": ["", ramp.reason]})
    return "done" if step.done else "advanced"


def _keep(ramp: Ramp, seen: Seen) -> None:
    ramp.evidence["seen"] = seen.to_json()
    earlier = sum((Decimal(step["saved_usd"]) for step in _closed_steps(ramp)), Decimal(0))
    ramp.saved_usd = (earlier + seen.saved_usd()).quantize(Decimal("1e-12"))


def _closed_steps(ramp: Ramp) -> list[dict[str, Any]]:
    """Those whose requests are no longer counted: the step that held at last goes on."""
    return [step for step in ramp.evidence["steps"] if not step["done"]]


def _remember(ramp: Ramp, seen: Seen, step: Step, now: datetime) -> None:
    """The step that ends here, with what it was decided on."""
    evidence = seen.evidence(_hours(ramp, now))
    gap = evidence.gap
    ramp.evidence["steps"].append(
        {
            "percent": ramp.percent,
            "since": ramp.since.isoformat(),
            "until": now.isoformat(),
            "action": step.action,
            "done": step.done,
            "reason": step.reason,
            "stayed": evidence.control.requests,
            "moved": evidence.moved.requests,
            "stayed_usd_per_1000": evidence.control.cost_per_1000,
            "moved_usd_per_1000": evidence.moved.cost_per_1000,
            "gap": None if gap is None else [gap.estimate, gap.low, gap.high],
            "judgements": 0 if gap is None else gap.effective_sample_size,
            "saved_usd": str(seen.saved_usd()),
        }
    )


def _hours(ramp: Ramp, now: datetime) -> float:
    return (now - ramp.since) / timedelta(hours=1)


def _experiment_runs(ramp: Ramp) -> bool:
    """An experiment goes before a ramp: there is nothing to see while it runs."""
    running = Experiment.objects.filter(tenant=ramp.tenant_id, status=Experiment.Status.RUNNING)
    return any_concerns(running, ramp.task, ramp.complexity)
