"""Reads the genai-prices package's own data, offline, as prices by provider kind and pattern of model names.

What our price versions cannot express is skipped with a reason rather than taken over nearly right: an unknown
price is asked for, a wrong one is paid. Of prices for tiers of service those for batches, the flex and the priority
tier are taken over; others are left aside, as are charges for a vendor's own web and file searches, which no usage
reports.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cache
from itertools import chain
from typing import Any, Final

from genai_prices import data, types

from billing.pricing import MOST_DECIMALS

# The package's providers as kinds of our catalogue (gateway.providers.catalog).
KIND_OF_PROVIDER: Final = {
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
SINCE_EVER: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""The moment of prices without a start date: earlier than any request."""

_CLASS_OF_PRICE: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
}
# Kinds of tokens that usage does not tell apart, and what they are charged as: fine where it costs the same.
_CHARGED_AS: Final = {
    "input_image_mtok": "input_mtok",
    "input_video_mtok": "input_mtok",
    "output_image_mtok": "output_mtok",
    "output_video_mtok": "output_mtok",
    "output_citation_mtok": "output_mtok",
}
# Charges on top, or cached media, which at worst are charged a little high.
_LEFT_ASIDE: Final = frozenset(
    {"web_searches_kcount", "storage_searches_kcount", "cache_audio_read_mtok", "cache_image_read_mtok"}
)
_PER_THOUSAND_REQUESTS: Final = "requests_kcount"
# How the book names what further prices are for. A gateway's call is served as flex rather than as a batch, so where
# the book has both (they hardly differ) flex goes first. OpenAI calls its priority tier fast by now,
# and what Anthropic calls fast is the same to a caller.
_CONTEXTS: Final[Mapping[str, tuple[dict[str, str], ...]]] = {
    "batch": ({"service_tier": "flex"}, {"processing": "batch"}),
    "priority": ({"service_tier": "priority"}, {"service_tier": "fast"}, {"speed": "fast"}),
}

_REGEX_PART: Final = re.compile(
    r"(?P<set>\\d|\[[\w@.-]+\])(?:\{(?P<times>\d+)\})?|\\(?P<escaped>[^\w\s])|(?P<literal>[^\\\[\](){}*+?.^$|])"
)
_MEANS_SOMETHING: Final = re.compile(r"[*?\[\]]")


@dataclass(frozen=True, slots=True)
class BookPrice:
    """What models of ``kind`` whose names match ``pattern`` cost from ``effective_from`` on; ``terms`` are fields of
    billing.models.PriceVersion (USD per million tokens, ``per_request`` in USD, ``tiers``)."""

    kind: str
    pattern: str
    effective_from: datetime
    terms: Mapping[str, Any]


class Inexpressible(ValueError):
    """The book says something that a price version cannot; the message says what."""


def prices(skipped: list[str]) -> Iterator[BookPrice]:
    """All that can be expressed; a line for each model or rule that cannot is added to ``skipped``.

    Where the book has several prices for the same pattern and moment, the first comes first, as it is the one
    the book itself would use.
    """
    for provider in data.providers:
        kind = KIND_OF_PROVIDER.get(provider.id)
        if kind is None:
            skipped.append(f"{provider.id}: no provider kind of ours ({len(provider.models)} models)")
            continue
        for model in provider.models:
            label = f"{provider.id}/{model.id}"
            try:
                timeline = [(start, _terms(price)) for start, price in _timeline(model)]
            except Inexpressible as exc:
                skipped.append(f"{label}: {exc}")
                continue
            for start, terms in timeline:
                for name, contexts in _CONTEXTS.items():
                    try:
                        if (served_as := _served_as(contexts, model, start)) is not None:
                            terms[name] = served_as
                    except Inexpressible as exc:
                        skipped.append(f"{label}: as {name}: {exc}")
            patterns = list(_patterns(model.match))
            if None in patterns:
                skipped.append(f"{label}: names matched by a rule that is not a pattern; known by {model.id} alone")
                patterns.append(_literal(model.id) if model.is_match(model.id) else None)
            for pattern in filter(None, patterns):
                for start, terms in timeline:
                    yield BookPrice(kind, pattern, start, terms)


@cache
def context_window(kind: str, vendor_model: str) -> int | None:
    """Tokens of prompt and answer that the book knows a model to take; for discovery, where a vendor says nothing."""
    for provider in data.providers:
        if KIND_OF_PROVIDER.get(provider.id) == kind:
            model = provider.find_model(vendor_model)
            return model.context_window if model else None
    return None


def _timeline(model: types.ModelInfo) -> Iterator[tuple[datetime, types.ModelPrice]]:
    """The model's prices, each with the moment from which it holds. Raises Inexpressible."""
    steps = list(_standard(model))
    known = {start for start, _ in steps}
    contexts = list(chain.from_iterable(_CONTEXTS.values()))
    yield from steps
    for variant in model.price_variants or ():
        if variant.when in contexts and isinstance(variant.constraint, types.StartDateConstraint):
            start = datetime.combine(variant.constraint.start_date, time(), UTC)
            if start not in known and start > min(known):
                known.add(start)
                yield start, model.get_prices(start)


def _standard(model: types.ModelInfo) -> Iterator[tuple[datetime, types.ModelPrice]]:
    if isinstance(model.prices, types.ModelPrice):
        yield SINCE_EVER, model.prices
        return
    for conditional in model.prices:
        match conditional.constraint:
            case None:
                yield SINCE_EVER, conditional.prices
            case types.StartDateConstraint(start_date=day):
                yield datetime.combine(day, time(), UTC), conditional.prices
            case _:
                raise Inexpressible("the price depends on the time of day")


def _terms(prices: types.ModelPrice) -> dict[str, Any]:
    """A price by our token classes. Raises Inexpressible."""
    classes = _classes(prices)
    return {
        **{name: _base(price) for name, price in classes.items()},
        "per_request": _rounded((getattr(prices, _PER_THOUSAND_REQUESTS, None) or Decimal(0)) / 1000),
        "tiers": _tiers(classes),
    }


def _served_as(contexts: tuple[dict[str, str], ...], model: types.ModelInfo, at: datetime) -> dict[str, Any] | None:
    """What costs something else in the first of the contexts that the book has prices for; None where there are none.
    Raises Inexpressible."""
    standard = model.get_prices(at)
    for context in contexts:
        if (prices := model.get_prices(at, context)) != standard:
            former = _classes(standard)
            classes = {name: price for name, price in _classes(prices).items() if price != former.get(name)}
            tiers = _tiers(classes)
            return {name: f"{_base(price):f}" for name, price in classes.items()} | ({"tiers": tiers} if tiers else {})
    return None


def _classes(prices: types.ModelPrice) -> "dict[str, Decimal | types.TieredPrices]":
    """Raises Inexpressible."""
    given = {key: price for key, price in vars(prices).items() if price is not None}
    if "input_mtok" not in given:
        raise Inexpressible("not charged by input tokens")
    for key, price in given.items():
        if key in _CHARGED_AS:
            if price != given.get(_CHARGED_AS[key]):
                raise Inexpressible(f"{key} has a price of its own, and usage does not tell such tokens apart")
        elif key not in _CLASS_OF_PRICE and key not in _LEFT_ASIDE and key != _PER_THOUSAND_REQUESTS:
            raise Inexpressible(f"charged by {key}")
    classes = {name: given[key] for key, name in _CLASS_OF_PRICE.items() if key in given}
    classes.setdefault("output", Decimal(0))  # embeddings and the like have none
    if "cache_write_5m" in classes:
        classes.setdefault("cache_write_1h", classes["cache_write_5m"])
    return classes


def _base(price: Decimal | types.TieredPrices) -> Decimal:
    return _rounded(price.base if isinstance(price, types.TieredPrices) else price)


def _rounded(usd: Decimal) -> Decimal:
    """To the decimals of a price version; only a third of a cent and the like has more."""
    return usd if -int(usd.as_tuple().exponent) <= MOST_DECIMALS else round(usd, MOST_DECIMALS)


def _tiers(classes: Mapping[str, Decimal | types.TieredPrices]) -> list[dict[str, Any]]:
    """One entry per threshold. A tier of ours starts from the base price, so it names every class that has left it."""
    tiered = {name: price for name, price in classes.items() if isinstance(price, types.TieredPrices)}
    return [
        {
            "above_input_tokens": start,
            **{
                name: f"{_rounded(reached[-1].price):f}"
                for name, price in tiered.items()
                if (reached := [tier for tier in price.tiers if tier.start <= start])
            },
        }
        for start in sorted({tier.start for price in tiered.values() for tier in price.tiers})
    ]


def _patterns(clause: Any) -> Iterator[str | None]:
    """Names and shell patterns that together match just what ``clause`` does; None for a part that none can."""
    match clause:
        case types.ClauseOr(or_=clauses):
            for each in clauses:
                yield from _patterns(each)
        case types.ClauseEquals(equals=text):
            yield _literal(text)
        case types.ClauseStartsWith(starts_with=text):
            yield _literal(text) + "*"
        case types.ClauseEndsWith(ends_with=text):
            yield "*" + _literal(text)
        case types.ClauseContains(contains=text):
            yield f"*{_literal(text)}*"
        case types.ClauseRegex(regex=text):
            yield _pattern_of_regex(text)
        case _:
            yield None


def _pattern_of_regex(regex: str) -> str | None:
    """A shell pattern for an anchored sequence of characters and character sets; None for anything else."""
    if not regex.startswith("^"):
        return None
    at, end = 1, len(regex) - regex.endswith("$")
    pattern = ""
    while at < end:
        part = _REGEX_PART.match(regex, at, end)
        if part is None:
            return None
        if part["set"]:
            pattern += ("[0-9]" if part["set"] == r"\d" else part["set"]) * int(part["times"] or 1)
        else:
            pattern += _literal(part["escaped"] or part["literal"])
        at = part.end()
    return pattern if regex.endswith("$") else pattern + "*"


def _literal(text: str) -> str:
    """A name inside a pattern: characters that patterns give a meaning stand for themselves."""
    return _MEANS_SOMETHING.sub(lambda found: f"[{found[0]}]", text)
