"""What tokens cost, exactly: integers of pico-USD (10^-12 USD), never floats.

A price of at most six decimals in USD per million tokens is a whole number of pico-USD per token, so a cost is a
sum of integer products and fits the ledger's twelve decimals without rounding.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from gateway.wire.types import ServiceTier, Usage

PICO_PER_MILLIONTH = 10**6
MOST_DECIMALS = 6
PRICE_OF_TIER: Mapping[ServiceTier, str] = {"batch": "batch", "flex": "batch", "priority": "priority"}
"""Which of :data:`SERVICE_PRICES` holds for what was served in a tier of service."""
SERVICE_PRICES = tuple(dict.fromkeys(PRICE_OF_TIER.values()))
"""The further prices that a price may have, by name."""
DEARER_TIERS: frozenset[ServiceTier] = frozenset({"priority", "ultrafast", "other"})
"""Those that may cost more than the standard one; the rest costs no more, if it has no price of its own."""

_WILDCARD = re.compile(r"[*?\[]")
# A class without a price of its own is charged as the class it is a kind of.
_BASE = {
    "cached_input": "input",
    "cache_write_5m": "input",
    "cache_write_1h": "input",
    "audio_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}


class TokenPrices(Struct, frozen=True):
    """Pico-USD per token of each disjoint class of :class:`~gateway.wire.types.Usage`."""

    input: int
    output: int
    cached_input: int
    cache_write_5m: int
    cache_write_1h: int
    reasoning: int
    audio_input: int
    audio_output: int

    def cost(self, usage: Usage) -> int:
        return (
            usage.input * self.input
            + usage.cached_input * self.cached_input
            + usage.cache_write_5m * self.cache_write_5m
            + usage.cache_write_1h * self.cache_write_1h
            + usage.output * self.output
            + usage.reasoning * self.reasoning
            + usage.audio_input * self.audio_input
            + usage.audio_output * self.audio_output
        )

    @property
    def dearest_input(self) -> int:
        return max(self.input, self.cached_input, self.cache_write_5m, self.cache_write_1h, self.audio_input)

    @property
    def dearest_output(self) -> int:
        return max(self.output, self.reasoning, self.audio_output)


class Service(Struct, frozen=True):
    """How a vendor is asked to serve a call: the ``tier`` that is named ("": none), by ``field``, and whether it
    ``may_be_priority`` that comes of it."""

    tier: ServiceTier = ""
    may_be_priority: bool = True
    field: str = "service_tier"


ANY_SERVICE = Service()


class Tier(Struct, frozen=True):
    """What every token of a request costs when its prompt is longer than ``above_input_tokens``."""

    above_input_tokens: int
    prices: TokenPrices


class Price(Struct, frozen=True):
    """One version of what one model costs. ``per_request`` is in pico-USD; ``tiers`` rise by prompt length; ``batch``
    and ``priority`` have the tokens' prices where the vendor says that it served the call in such a tier of service
    (:data:`PRICE_OF_TIER`; None: the same). ``discount_bp`` is what a tenant gets off each call, in hundredths of a
    per cent."""

    version_id: str
    prices: TokenPrices
    per_request: int = 0
    tiers: tuple[Tier, ...] = ()
    batch: "Price | None" = None
    priority: "Price | None" = None
    discount_bp: int = 0

    @classmethod
    def from_decimals(
        cls,
        version_id: str,
        *,
        input: Decimal | str,  # the class's name in usage
        output: Decimal | str,
        per_request: Decimal | str = "0",
        tiers: Iterable[Mapping[str, Any]] = (),
        batch: Mapping[str, Any] | None = None,
        priority: Mapping[str, Any] | None = None,
        **classes: Decimal | str | None,
    ) -> "Price":
        """A price from USD per million tokens (``per_request``: USD per call).

        ``classes`` are the remaining token classes by name; one that is missing or None is charged as input or
        output. A tier, ``{"above_input_tokens": 200000, "input": "2.5", ...}``, overrides what it names. ``batch``
        and ``priority``, ``{"input": "0.6", ..., "tiers": [...]}``, override what they name for prompts of any
        length, and their tiers that for long ones.

        Raises ValueError for a negative price, one with more than six decimals, or an unknown class.
        """
        own = {"input": input, "output": output, **classes}
        rising = _by_length(tiers)

        def served_as(terms: Mapping[str, Any] | None) -> "Price | None":
            return cls.from_decimals(version_id, **_over(own, rising, terms)) if terms else None

        return cls(
            version_id=version_id,
            prices=_token_prices(own),
            per_request=_millionths(per_request, "per_request") * PICO_PER_MILLIONTH,
            tiers=tuple(_tier(tier, own) for tier in rising),
            batch=served_as(batch),
            priority=served_as(priority),
        )

    def cost(self, usage: Usage) -> int:
        """Pico-USD, exact; a discount is rounded to a whole one, half up."""
        full = self.per_request + self.token_prices(usage).cost(usage)
        return full - (full * self.discount_bp + 5_000) // 10_000 if self.discount_bp else full

    def token_prices(self, usage: Usage) -> TokenPrices:
        """What its tokens cost, by the length of its prompt and the tier of service it was served in."""
        if (name := PRICE_OF_TIER.get(usage.service_tier)) is not None:
            served_as: Price | None = getattr(self, name)
            if served_as is not None:
                return served_as.token_prices(usage)
        prices = self.prices
        if self.tiers:
            for tier in self._reachable_tiers(usage.total_input):
                prices = tier.prices
        return prices

    def covers(self, tier: ServiceTier) -> bool:
        """Whether it is known what a call costs that is served so; else :meth:`cost` is too low, perhaps."""
        return tier not in DEARER_TIERS or (tier == "priority" and self.priority is not None)

    def upper_bound(self, input_tokens: int, max_output_tokens: int, choices: int = 1) -> int:
        """The most, in pico-USD, that up to so many tokens can cost, whatever their class and tiers."""
        input_pico, output_pico = self.dearest(input_tokens)
        return self.per_request + input_tokens * input_pico + max_output_tokens * choices * output_pico

    def dearest(self, input_tokens: int, *, priority: bool = True) -> tuple[int, int]:
        """The most, in pico-USD, that a token of a prompt of up to ``input_tokens`` and one of its answer can cost;
        ``priority``: also where it is served in the priority tier."""
        input_pico, output_pico = self.prices.dearest_input, self.prices.dearest_output
        for tier in self._reachable_tiers(input_tokens):
            input_pico = max(input_pico, tier.prices.dearest_input)
            output_pico = max(output_pico, tier.prices.dearest_output)
        for served_as in (self.batch, self.priority if priority else None):
            if served_as is not None:
                of_input, of_output = served_as.dearest(input_tokens)
                input_pico, output_pico = max(input_pico, of_input), max(output_pico, of_output)
        return input_pico, output_pico

    def _reachable_tiers(self, input_tokens: int) -> list[Tier]:
        return [tier for tier in self.tiers if input_tokens > tier.above_input_tokens]


class PricedVersion(Struct, frozen=True):
    """A price and what it applies to: one configured model, or a provider kind ("": any) and a pattern of the
    vendor's model names; for one tenant, or without one for all."""

    price: Price
    effective_from: datetime
    tenant_id: str | None = None
    model_id: str | None = None
    provider_kind: str = ""
    vendor_model_pattern: str = ""


def select(
    versions: Iterable[PricedVersion],
    *,
    provider_kind: str,
    vendor_model: str,
    model_id: str,
    tenant_id: str,
    at: datetime,
) -> Price | None:
    """The price that holds at a moment; None when none is known, which is not the same as free.

    A model's own price goes before patterns, the tenant's before the installation's, an exact name before a
    pattern, a longer pattern before a shorter one, a named provider kind before any; then the latest one.
    """
    applicable = (
        version
        for version in versions
        if version.effective_from <= at
        and version.tenant_id in (None, tenant_id)
        and _applies(version, provider_kind, vendor_model, model_id)
    )
    best = max(applicable, key=lambda version: _rank(version, vendor_model), default=None)
    return best.price if best is not None else None


def to_usd(pico: int) -> Decimal:
    """Exact, with twelve decimals."""
    return Decimal(pico).scaleb(-12)


def _applies(version: PricedVersion, provider_kind: str, vendor_model: str, model_id: str) -> bool:
    if version.model_id is not None:
        return version.model_id == model_id
    return version.provider_kind in ("", provider_kind) and _matches(version.vendor_model_pattern, vendor_model)


def _matches(pattern: str, name: str) -> bool:
    """As a shell pattern. The fixed beginning is compared first: it rules out nearly all of a price book."""
    wildcard = _WILDCARD.search(pattern)
    if wildcard is None:
        return name == pattern
    return name.startswith(pattern[: wildcard.start()]) and fnmatch.fnmatchcase(name, pattern)


def _rank(version: PricedVersion, vendor_model: str) -> tuple[bool, bool, bool, int, bool, datetime]:
    return (
        version.model_id is not None,
        version.tenant_id is not None,
        version.vendor_model_pattern == vendor_model,
        len(version.vendor_model_pattern) if version.model_id is None else 0,
        bool(version.provider_kind) and version.model_id is None,
        version.effective_from,
    )


def _by_length(tiers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Raises ValueError for a tier without a length."""
    rising = list(tiers)
    for tier in rising:
        above = tier.get("above_input_tokens")
        if not isinstance(above, int) or isinstance(above, bool) or above < 0:
            raise ValueError("A tier needs above_input_tokens: a whole number of tokens.")
    return sorted(rising, key=lambda tier: tier["above_input_tokens"])


def _tier(tier: Mapping[str, Any], own: Mapping[str, Any]) -> Tier:
    overrides = {name: price for name, price in tier.items() if name != "above_input_tokens"}
    return Tier(tier["above_input_tokens"], _token_prices({**own, **overrides}))


def _over(own: Mapping[str, Any], tiers: Iterable[Mapping[str, Any]], terms: Mapping[str, Any]) -> dict[str, Any]:
    """The prices of ``terms`` with what they do not name taken from the standard ones, at every length of prompt."""
    named = {name: price for name, price in terms.items() if name != "tiers"}
    if unknown := named.keys() - set(TokenPrices.__struct_fields__):
        raise ValueError(f"Not a token class: {', '.join(sorted(unknown))}.")
    own_tiers = _by_length(terms.get("tiers", ()))
    lengths = sorted({tier["above_input_tokens"] for tier in (*tiers, *own_tiers)})
    return {
        **own,
        **named,
        "tiers": [{**_at(tiers, length), **named, **_at(own_tiers, length)} for length in lengths],
    }


def _at(tiers: Iterable[Mapping[str, Any]], length: int) -> Mapping[str, Any]:
    """The tier that holds above a length, as one of that very length."""
    reached = [tier for tier in tiers if tier["above_input_tokens"] <= length]
    return {**(reached[-1] if reached else {}), "above_input_tokens": length}


def _token_prices(usd_per_million: Mapping[str, Any]) -> TokenPrices:
    unknown = usd_per_million.keys() - set(TokenPrices.__struct_fields__)
    if unknown:
        raise ValueError(f"Not a token class: {', '.join(sorted(unknown))}.")
    exact = {name: _millionths(price, name) for name, price in usd_per_million.items() if price is not None}
    for name, base in _BASE.items():
        exact.setdefault(name, exact[base])
    # 10^-6 USD per million tokens is exactly one pico-USD per token.
    return msgspec.convert(exact, TokenPrices)


def _millionths(price: Decimal | str, name: str) -> int:
    """A price as a count of millionths of a USD."""
    value = Decimal(price)
    if not value.is_finite() or value < 0:
        raise ValueError(f"The price of {name} must be 0 or more: {price}.")
    millionths = value.scaleb(MOST_DECIMALS)
    if millionths != millionths.to_integral_value():
        raise ValueError(f"The price of {name} has more than {MOST_DECIMALS} decimals: {price}.")
    return int(millionths)
