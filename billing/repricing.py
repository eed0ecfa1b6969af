"""Corrects what lines cost by today's price book: a difference becomes a line of its own, nothing is ever edited."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet, Sum
from msgspec import structs

from audit.actions import Action
from audit.record import Actor, record
from billing.models import Adjustment, PriceVersion, Settlement
from billing.pricing import Price, PricedVersion, select, to_usd
from billing.verification import USAGE_COLUMNS, is_charged, usage_of
from gateway.rows import first_id
from tenants.models import Tenant

_BATCH: Final = 1000
_ROWS_AT_A_TIME: Final = 2000
_KEY_IS_NEAR: Final = timedelta(hours=1)  # an attempt's key is made when it starts
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('pointsman_reprice'))"

Subject = tuple[str, str, str, str]
"""Provider kind, vendor's model, model id, tenant id: what a price is looked up by."""


@dataclass(slots=True)
class ModelSummary:
    """What repricing changes of one model: lines that differ, and what they cost before and after (USD)."""

    model: str
    lines: int = 0
    unpriced: int = 0
    old_usd: Decimal = Decimal(0)
    new_usd: Decimal = Decimal(0)

    @property
    def difference_usd(self) -> Decimal:
        return self.new_usd - self.old_usd


@dataclass(frozen=True, slots=True)
class Repricing:
    """``examined`` lines of the range; ``without_price`` of them have none in today's book either. A model's
    ``unpriced`` lines had no cost before. Checks of the installation's own providers have no tenant to adjust."""

    examined: int
    without_price: int
    models: list[ModelSummary]

    @property
    def adjusted(self) -> int:
        return sum(summary.lines for summary in self.models)

    @property
    def difference_usd(self) -> Decimal:
        return sum((summary.difference_usd for summary in self.models), Decimal(0))


@transaction.atomic
def reprice(
    actor: Actor,
    *,
    since: datetime,
    until: datetime,
    tenant: Tenant | None = None,
    model: str = "",
    dry_run: bool = False,
) -> Repricing:
    """Adjust every line whose attempt started in ``[since, until)`` to the price that, by today's book, held then.

    ``model`` is the name callers use or the vendor's. A line without a known price gets its whole cost. A second
    run finds nothing to do; runs at the same time take turns. A dry run writes nothing and says the same.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOCK)
    book = PriceBook()
    summaries: dict[str, ModelSummary] = {}
    pending: list[Adjustment] = []
    examined = without_price = 0
    for line in _with_earlier_adjustments(_lines(since, until, tenant, model)):
        if not since <= line["started_at"] < until or not is_charged(line):
            continue
        examined += 1
        price = book.price(line)
        if price is None or not price.covers(line["service_tier"]):
            without_price += 1
            continue
        due = to_usd(structs.replace(price, discount_bp=line["discount_bp"]).cost(usage_of(line)))
        if (adjustment := _adjustment(line, due, price)) is None:
            continue
        name = line["model_name"] or line["vendor_model"]
        _count(summaries.setdefault(name, ModelSummary(name)), line, due)
        pending.append(adjustment)
        if len(pending) >= _BATCH:
            _write(pending, dry_run)
    _write(pending, dry_run)
    result = Repricing(examined, without_price, [summaries[name] for name in sorted(summaries)])
    if result.adjusted and not dry_run:
        changes: dict[str, Any] = {"from": since, "to": until, "model": model, "lines": result.adjusted}
        changes["difference_usd"] = result.difference_usd
        record(actor, Action.LEDGER_REPRICED, tenant, tenant=tenant, changes=changes)
    return result


class PriceBook:
    """Today's price versions. Those that can apply to a subject are sought once."""

    def __init__(self) -> None:
        self._versions = [row.as_priced_version() for row in PriceVersion.objects.iterator()]
        self._applicable: dict[Subject, list[PricedVersion]] = {}

    def price(self, line: dict[str, Any]) -> Price | None:
        """The price that holds for a line at its start."""
        kind, vendor_model = line["provider_kind"], line["vendor_model"]
        model_id, tenant_id = str(line["model_id"] or ""), str(line["tenant_id"] or "")
        subject = (kind, vendor_model, model_id, tenant_id)
        facts = {"provider_kind": kind, "vendor_model": vendor_model, "model_id": model_id, "tenant_id": tenant_id}
        if subject not in self._applicable:
            self._applicable[subject] = [
                version for version in self._versions if select([version], **facts, at=version.effective_from)
            ]
        return select(self._applicable[subject], **facts, at=line["started_at"])


def _lines(since: datetime, until: datetime, tenant: Tenant | None, model: str) -> QuerySet[Settlement, Any]:
    """A few more than asked for, by key alone: two ranges at once lead the planner to read one of them for each row."""
    lines = Settlement.objects.filter(
        attempt_id__gte=first_id(since - _KEY_IS_NEAR),
        attempt_id__lt=first_id(until + _KEY_IS_NEAR),
        tenant__isnull=False,
    )
    if tenant is not None:
        lines = lines.filter(tenant=tenant)
    if model:
        lines = lines.filter(Q(attempt__model__name=model) | Q(attempt__vendor_model=model))
    rows: QuerySet[Settlement, Any] = lines.order_by("attempt_id").values(
        "attempt_id", "tenant_id", "outcome", "cost_usd", "saved_usd", *USAGE_COLUMNS,
        started_at=F("attempt__started_at"),
        discount_bp=F("attempt__discount_bp"),
        vendor_model=F("attempt__vendor_model"),
        model_id=F("attempt__model_id"),
        model_name=F("attempt__model__name"),
        provider_kind=F("attempt__provider__kind"),
    )  # fmt: skip
    return rows


def _with_earlier_adjustments(lines: QuerySet[Settlement, Any]) -> Iterator[dict[str, Any]]:
    """Lines with ``adjusted_usd``: what was repriced before, None where nothing was. Sought for many lines at a time,
    as this very run makes the table grow."""
    rows = lines.iterator(chunk_size=_ROWS_AT_A_TIME)
    while chunk := list(islice(rows, _ROWS_AT_A_TIME)):
        repriced = Adjustment.objects.filter(
            attempt__in=[line["attempt_id"] for line in chunk], reason=Adjustment.Reason.REPRICE
        )
        sums = dict(repriced.order_by().values_list("attempt").annotate(Sum("amount_usd")))
        for line in chunk:
            yield line | {"adjusted_usd": sums.get(line["attempt_id"])}


def _adjustment(line: dict[str, Any], due: Decimal, price: Price) -> Adjustment | None:
    """None where the line costs that already. An unknown cost is made known even where it is 0."""
    difference = due - _cost_now(line)
    if not difference and not _is_unpriced(line):
        return None
    return Adjustment(
        tenant_id=line["tenant_id"],
        attempt_id=line["attempt_id"],
        reason=Adjustment.Reason.REPRICE,
        amount_usd=difference,
        price_version_id=price.version_id,
    )


def _is_unpriced(line: dict[str, Any]) -> bool:
    return line["cost_usd"] is None and line["adjusted_usd"] is None


def _cost_now(line: dict[str, Any]) -> Decimal:
    return (line["cost_usd"] or Decimal(0)) + (line["adjusted_usd"] or Decimal(0))


def _count(summary: ModelSummary, line: dict[str, Any], due: Decimal) -> None:
    summary.lines += 1
    summary.unpriced += _is_unpriced(line)
    summary.old_usd += _cost_now(line)
    summary.new_usd += due


def _write(pending: list[Adjustment], dry_run: bool) -> None:
    if not dry_run:
        Adjustment.objects.bulk_create(pending)
    pending.clear()
