"""What requests cost, as the ledger has it."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from django.db.models import Count, Sum

from billing.models import Attempt, Settlement
from routing.migration import LedgerTotals

FOR_CALLERS: Final = (
    Attempt.Purpose.SERVE,
    Attempt.Purpose.RETRY,
    Attempt.Purpose.FALLBACK,
    Attempt.Purpose.RESCUE,
    Attempt.Purpose.HEDGE,
)
"""Purposes of calls that a request itself needs, whoever looks on."""


def paid(tenant_id: UUID, requests: Sequence[UUID]) -> LedgerTotals:
    """Of these requests (in the order of their keys) those that were settled, all of their calls at a known price."""
    if not requests:
        return LedgerTotals(0, Decimal(0))
    lines = Settlement.objects.filter(
        tenant=tenant_id,
        attempt__request_id__in=requests,
        attempt__purpose__in=FOR_CALLERS,
        attempt_id__gte=requests[0],  # of partitioned tables the months before are left alone
        attempt__id__gte=requests[0],
    )
    by_request = lines.values("attempt__request_id").annotate(
        usd=Sum("cost_usd"), lines=Count("attempt_id"), priced=Count("cost_usd")
    )
    known = [row["usd"] for row in by_request.order_by() if row["priced"] == row["lines"]]
    return LedgerTotals(len(known), sum(known, Decimal(0)))


def together(one: LedgerTotals, other: LedgerTotals) -> LedgerTotals:
    return LedgerTotals(one.requests + other.requests, one.cost_usd + other.cost_usd)
