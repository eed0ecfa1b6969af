"""The shipped price book: what vendors charge, from the genai-prices package's own data, without a network."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from genai_prices import data, types

from audit.actions import Action
from audit.record import Actor, record
from billing.models import PriceVersion

# The package's providers as kinds of our catalogue (gateway.providers.catalog).
KIND_OF_PROVIDER = {
    "anthropic": "anthropic",
    "azure": "azure-openai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "google": "gemini",
    "groq": "groq",
    "mistral": "mistral",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "together": "together",
    "x-ai": "xai",
    "zai": "zai",
}
CLASS_OF_PRICE = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
}
# Prices without a start date hold "since ever": earlier than any request.
SINCE_EVER = datetime(2020, 1, 1, tzinfo=UTC)
_GLOB = re.compile(r"[*?\[\]]")


@dataclass
class ImportResult:
    """``skipped`` says, one line each, what the book knows and our price versions cannot express."""

    added: int = 0
    unchanged: int = 0
    skipped: list[str] = field(default_factory=list)


@transaction.atomic
def import_book(actor: Actor) -> ImportResult:
    """Add what the book knows and we do not. Idempotent; an operator's own prices go before the book's."""
    result = ImportResult()
    known = set(
        PriceVersion.objects.filter(source=PriceVersion.Source.BOOK).values_list(
            "provider_kind", "vendor_model_pattern", "effective_from"
        )
    )
    fresh: list[PriceVersion] = []
    for version in _versions(result.skipped):
        key = (version.provider_kind, version.vendor_model_pattern, version.effective_from)
        if key in known:
            result.unchanged += 1
            continue
        known.add(key)
        fresh.append(version)
    PriceVersion.objects.bulk_create(fresh, batch_size=500)
    result.added = len(fresh)
    if fresh:
        record(actor, Action.PRICE_BOOK_IMPORTED, None, tenant=None, changes={"added": len(fresh)})
    return result


def _versions(skipped: list[str]) -> Iterator[PriceVersion]:
    for provider in data.providers:
        kind = KIND_OF_PROVIDER.get(provider.id)
        for model in provider.models if kind else ():
            patterns = list(_patterns(model.match, f"{provider.id}/{model.id}", skipped))
            for starts, prices in _dated(model, provider.id, skipped):
                try:
                    terms = _terms(prices)
                    for pattern in patterns:
                        version = PriceVersion(
                            provider_kind=kind or "",
                            vendor_model_pattern=pattern,
                            effective_from=starts,
                            source=PriceVersion.Source.BOOK,
                            **terms,
                        )
                        version.clean()
                        yield version
                except (ValueError, ValidationError) as exc:
                    skipped.append(f"{provider.id}/{model.id}: {exc}")


def _patterns(clause: Any, label: str, skipped: list[str]) -> Iterator[str]:
    """Names and glob patterns that match exactly what ``clause`` does."""
    match clause:
        case types.ClauseEquals(equals=text):
            pattern = _literal(text)
        case types.ClauseStartsWith(starts_with=text):
            pattern = _literal(text) + "*"
        case types.ClauseEndsWith(ends_with=text):
            pattern = "*" + _literal(text)
        case types.ClauseContains(contains=text):
            pattern = f"*{_literal(text)}*"
        case types.ClauseOr(or_=clauses):
            for each in clauses:
                yield from _patterns(each, label, skipped)
            return
        case _:
            skipped.append(f"{label}: matched by a rule that is not a name or pattern")
            return
    yield pattern


def _literal(text: str) -> str:
    """A name inside a pattern: characters that patterns give a meaning stand for themselves."""
    return _GLOB.sub(lambda found: f"[{found[0]}]", text)


def _dated(model: types.ModelInfo, provider: str, skipped: list[str]) -> Iterator[tuple[datetime, types.ModelPrice]]:
    """The model's prices with the moment from which each holds."""
    if isinstance(model.prices, types.ModelPrice):
        yield SINCE_EVER, model.prices
        return
    for conditional in model.prices:
        constraint = conditional.constraint
        if constraint is None:
            yield SINCE_EVER, conditional.prices
        elif isinstance(constraint, types.StartDateConstraint):
            yield datetime.combine(constraint.start_date, time(), UTC), conditional.prices
        else:
            skipped.append(f"{provider}/{model.id}: a price for some hours of the day only")


def _terms(prices: types.ModelPrice) -> dict[str, Any]:
    """The price by our token classes. Raises ValueError for a model that is not charged by input tokens."""
    given = {
        name: getattr(prices, key, None)
        for key, name in CLASS_OF_PRICE.items()
        if getattr(prices, key, None) is not None
    }
    if "input" not in given:
        raise ValueError("not priced by tokens")
    given.setdefault("output", Decimal(0))
    base = {name: price.base if isinstance(price, types.TieredPrices) else price for name, price in given.items()}
    tiered = {name: price for name, price in given.items() if isinstance(price, types.TieredPrices)}
    per_request = getattr(prices, "requests_kcount", None)
    return {
        **base,
        "per_request": per_request / 1000 if per_request is not None else Decimal(0),
        "tiers": _tiers(tiered.items()),
    }


def _tiers(tiered: Iterable[tuple[str, types.TieredPrices]]) -> list[dict[str, Any]]:
    """One entry per threshold with every class that changes there."""
    by_start: dict[int, dict[str, Any]] = {}
    for name, prices in tiered:
        for tier in prices.tiers:
            by_start.setdefault(tier.start, {})[name] = f"{tier.price:f}"
    return [{"above_input_tokens": start, **by_start[start]} for start in sorted(by_start)]
