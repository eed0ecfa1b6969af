"""Strategies of projects and API tokens."""

from audit.actions import Action
from audit.record import Actor, record
from routing.models import StrategyChoice
from tenants.models import ApiToken


def keep_strategy(before: ApiToken, after: ApiToken, actor: Actor) -> None:
    """Let the strategy of a token that was replaced be that of the one in its place."""
    row = StrategyChoice.objects.filter(tenant=before.tenant_id, token=before).select_related("tenant").first()
    if row is None:
        return
    row.token = after
    row.full_clean()
    row.save()
    changes = {"token": [str(before.pk), str(after.pk)]}
    record(actor, Action.STRATEGY_CHANGED, row, tenant=row.tenant, changes=changes)
