"""Which tenants a job may work for, by their plans."""

from typing import Any, TypeVar

from django.db.models import Model, QuerySet

from billing.features import Feature
from billing.models import Subscription

RowT = TypeVar("RowT", bound=Model)


def within_plan(rows: QuerySet[RowT], feature: Feature) -> tuple[QuerySet[RowT], dict[str, Any]]:
    """Those of ``rows`` (of tenants) whose tenant's plan includes a feature; and, for the job's record, the other
    tenants as ``not_in_plan``, if there are any."""
    without = Subscription.without(feature)
    slugs = rows.filter(tenant__in=without).order_by("tenant__slug").values_list("tenant__slug", flat=True).distinct()
    skipped = list(slugs) if without else []
    return rows.exclude(tenant__in=without), {"not_in_plan": skipped} if skipped else {}
