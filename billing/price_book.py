"""Takes the shipped price book over into price versions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import transaction

from audit.actions import Action
from audit.record import Actor, record
from billing.models import TOKEN_PRICES, PriceVersion
from billing.pricing import SERVICE_PRICES

if TYPE_CHECKING:
    from billing.genai_book import BookPrice

_BATCH = 500

Subject = tuple[str, str]
"""A provider kind and a pattern of its model names."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """How many price versions are new, how many were there; ``skipped`` says, a line each, what the book knows and
    price versions cannot express."""

    added: int
    unchanged: int
    skipped: list[str] = field(default_factory=list)


@transaction.atomic
def import_book(actor: Actor) -> ImportResult:
    """Add to the installation's prices what the shipped book knows and they lack. Needs no network.

    Idempotent. A price that the book has corrected since the last import holds from now on: price versions are
    never changed. An operator's own prices are another source; they are left alone, and those of a model go first.
    """
    from billing import genai_book  # noqa: PLC0415 - half a second of start-up that only an import needs

    skipped: list[str] = []
    held = _held()
    fresh: list[PriceVersion] = []
    unchanged = 0
    for subject, timeline in _by_subject(genai_book.prices(skipped)).items():
        for price in timeline.values():
            version = _version(price, held.get(subject, {}))
            if version is None:
                unchanged += 1
                continue
            try:
                version.clean()
            except ValidationError as exc:
                skipped.append(f"{price.kind}/{price.pattern}: {' '.join(exc.messages)}")
            else:
                fresh.append(version)
    PriceVersion.objects.bulk_create(fresh, batch_size=_BATCH)
    if fresh:
        record(actor, Action.PRICE_BOOK_IMPORTED, None, tenant=None, changes={"added": len(fresh)})
    return ImportResult(len(fresh), unchanged, skipped)


def _held() -> dict[Subject, dict[datetime, PriceVersion]]:
    """What earlier imports, or an operator, have laid down for the installation by pattern, by moment."""
    held: dict[Subject, dict[datetime, PriceVersion]] = {}
    for version in PriceVersion.objects.filter(tenant=None, model=None).iterator():
        subject = (version.provider_kind, version.vendor_model_pattern)
        held.setdefault(subject, {})[version.effective_from] = version
    return held


def _by_subject(prices: Iterable["BookPrice"]) -> dict[Subject, dict[datetime, "BookPrice"]]:
    """The first price for a pattern and moment counts."""
    timelines: dict[Subject, dict[datetime, BookPrice]] = {}
    for price in prices:
        timelines.setdefault((price.kind, price.pattern), {}).setdefault(price.effective_from, price)
    return timelines


def _version(price: "BookPrice", held: Mapping[datetime, PriceVersion]) -> PriceVersion | None:
    """The row to add, None when the price is there already (at its moment, or as a later correction)."""
    version = PriceVersion(
        provider_kind=price.kind,
        vendor_model_pattern=price.pattern,
        effective_from=price.effective_from,
        source=PriceVersion.Source.BOOK,
        **_complete(price.terms),
    )
    if price.effective_from not in held:
        return version
    amounts = version.amounts()
    if any(row.amounts() == amounts for start, row in held.items() if start >= price.effective_from):
        return None
    version.effective_from = max(price.effective_from, datetime.now(UTC))
    return version


def _complete(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {name: terms.get(name) for name in TOKEN_PRICES} | {
        "per_request": terms.get("per_request", Decimal(0)),
        "tiers": terms.get("tiers", []),
        **{name: terms.get(name) for name in SERVICE_PRICES},
    }
