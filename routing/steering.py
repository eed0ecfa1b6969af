"""What the applier sets besides beliefs: how large a share of answers is judged, and what a dollar weighs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from billing.spend import spend_of
from gateway.rows import first_id
from routing.judge import Sampler
from routing.models import Decision, Label, RoutingSettings
from routing.observed_answers import Answered
from routing.scores import towards_spend
from tenants.models import Tenant

JUDGING: Final = ("judge", "shadow")
"""The purposes of ledger lines that judging pays for."""

FEWEST_FOR_A_STEP: Final = 50  # requests for a whole step of the weight of cost; fewer make a smaller one


def judge_probability(tenant: Tenant, settings: RoutingSettings, now: datetime) -> float:
    """With which an answer is judged from now on: the share that is wanted, while the day's money lasts."""
    if not settings.judge_usd_per_day or not settings.judge_rate:
        return 0.0
    today = midnight(now)
    of_today = Decision.objects.filter(tenant=tenant, request_id__gte=first_id(today))
    judged = Label.objects.filter(tenant=tenant, id__gte=first_id(today), rater=Label.Rater.JUDGE)
    requests = judged.values("request_id").distinct().count()
    spent_usd = float(judging_usd(tenant, now))
    return Sampler(settings.judge_rate, float(settings.judge_usd_per_day)).probability(
        spent_usd=spent_usd,
        cost_usd=spent_usd / requests if requests else None,
        answers=of_today.count(),
        share_of_day=(now - today) / timedelta(days=1),
    )


def judging_usd(tenant: Tenant, now: datetime) -> Decimal:
    """What judging has cost a tenant today (UTC)."""
    return spend_of(tenant, midnight(now), now, where={"purpose": JUDGING}, now=now).total.spend_usd


def cost_weight(former: float | None, target: float | None, seen: Sequence[Answered]) -> float | None:
    """What a dollar per 1,000 requests weighs, moved towards ``target`` USD per 1,000 requests; None without one."""
    if target is None:
        return None
    costs = [float(answered.cost_usd) for answered in seen if answered.cost_usd is not None]
    weight = former or 0.0
    if not costs:
        return former
    share = min(1.0, len(costs) / FEWEST_FOR_A_STEP)
    return weight + share * (towards_spend(weight, 1000 * sum(costs) / len(costs), target) - weight)


def midnight(now: datetime) -> datetime:
    """When this day began."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
