"""What the hot path may know about a tenant: frozen facts, loaded by :mod:`gateway.runtime`.

A policy is a snapshot at one ``epoch``. Admission compares that with the database's, so nobody is served from
a snapshot that a change has overtaken.
"""

import difflib
import fnmatch
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from billing.budgets import BudgetFacts
from billing.features import EVERYTHING, Entitlement, Feature
from gateway.errors import (
    InvalidApiKey,
    ModelNotAllowed,
    ModelNotFound,
    NoProviderConfigured,
    PermissionDenied,
    UnsupportedContent,
)
from gateway.providers.target import Target
from gateway.wire.types import Needs
from routing.facts import RoutingFacts
from tenants.ratelimit import LimitFacts

Network = IPv4Network | IPv6Network

VIRTUAL_NAMES = frozenset({"auto", "fast", "cheap", "best"})
_NO_NEEDS = Needs()
_NEEDS = {
    "vision": "images",
    "audio": "audio",
    "files": "files",
    "tools": "tools",
    "json_schema": "structured output by a JSON schema",
}


class NamePatterns:
    """Which model names a token may use: exact names or shell patterns; none allows nothing."""

    __slots__ = ("_all", "_pattern")

    def __init__(self, patterns: Iterable[str]) -> None:
        wanted = tuple(patterns)
        self._all = "*" in wanted
        self._pattern = re.compile("|".join(fnmatch.translate(pattern) for pattern in wanted) or r"(?!)")

    def __contains__(self, name: str) -> bool:
        return self._all or self._pattern.match(name) is not None


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """One API token. ``expires_at`` is in seconds since 1970; ``requests_per_minute`` 0 means no own limit."""

    id: str
    name: str
    tenant_id: str
    project_id: str
    scopes: frozenset[str]
    models: NamePatterns
    networks: tuple[Network, ...]
    requests_per_minute: int
    expires_at: float | None
    revoked: bool

    def authorise(self, scope: str, client_ip: str) -> None:
        """Raises InvalidApiKey (revoked, expired) or PermissionDenied (scope, network)."""
        if self.revoked:
            raise InvalidApiKey("This API key has been revoked.")
        if self.expires_at is not None and self.expires_at <= time.time():
            raise InvalidApiKey("This API key has expired.")
        if scope not in self.scopes:
            raise PermissionDenied(f"This API key may not be used for {scope}.")
        if self.networks and not _within(client_ip, self.networks):
            raise PermissionDenied("This API key may not be used from your network address.")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A name callers may use, the deployments that serve it, and the names tried after it. ``targets`` is empty
    while no provider of it has a usable key; ``why_unusable`` then says so. ``balancing`` is the rule by which
    :mod:`gateway.balancing` orders them; ``routed``: the router may choose it."""

    name: str
    modality: str
    fallbacks: tuple[str, ...]
    targets: tuple[Target, ...]
    provider_name: str
    vendor_model: str
    context_window: int | None
    capabilities: frozenset[str]
    created_at: int
    balancing: str = "ordered"
    hedging: bool = False
    why_unusable: str = ""
    routed: bool = True

    def lacks(self, needs: Needs) -> str | None:
        """What a request needs and this model cannot do, in words; None if it can, or if nobody knows."""
        if not self.capabilities or needs == _NO_NEEDS:
            return None
        for need, words in _NEEDS.items():
            if getattr(needs, need) and need not in self.capabilities:
                return words
        return None


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """``valid_until`` is when something that is declared already begins to hold, in seconds since 1970."""

    id: str
    slug: str
    epoch: int
    models: Mapping[str, ModelFacts]
    aliases: Mapping[str, str]
    log_content: bool
    budgets: tuple[BudgetFacts, ...] = ()
    limits: tuple[LimitFacts, ...] = ()
    valid_until: float | None = None
    routing: RoutingFacts = field(default_factory=RoutingFacts)
    entitlement: Entitlement = EVERYTHING

    def refuse_beyond_plan(self, feature: Feature) -> None:
        """Raises PermissionDenied where the tenant's plan leaves a feature out."""
        if not self.entitlement.allows(feature):
            raise PermissionDenied(self.entitlement.refusal(feature))

    def virtual_name(self, name: str) -> str | None:
        """The way to choose that a name stands for, by itself or as an alias; None where it is not "choose for me", but
        has been given to a model."""
        meant = self.aliases.get(name, name)
        return meant if meant in VIRTUAL_NAMES and name not in self.models else None

    def leaves_choice(self, name: str) -> bool:
        """Whether a name stands for "choose for me"."""
        return self.virtual_name(name) is not None

    def resolve(self, name: str, token: TokenFacts) -> ModelFacts:
        """The model a caller means: a configured name, an alias, or ``provider/name``.

        Raises ModelNotFound (with near matches of what this token may use) or ModelNotAllowed.
        """
        found = self._find(name)
        if found is None:
            raise ModelNotFound(self._unknown(name, token), param="model")
        if found.name not in token.models and name not in token.models:
            raise ModelNotAllowed(f"This API key may not use the model '{name}'.", param="model")
        return found

    def known_as(self, name: str) -> str:
        """The configured name of the model a caller means; "" if there is none."""
        found = self._find(name)
        return found.name if found else ""

    def chain(self, model: ModelFacts, token: TokenFacts, needs: Needs, *, fallback: bool = True) -> list[ModelFacts]:
        """``model`` and what follows it when it fails, in order, each once, without what the token may not use, what
        cannot do what the request needs, and what has no deployment that can be called.

        Raises UnsupportedContent when the model itself cannot do it, NoProviderConfigured when none can be called.
        """
        if (lacking := model.lacks(needs)) is not None:
            raise UnsupportedContent(f"The model '{model.name}' does not take {lacking}.")
        candidates = [model, *self._fallbacks(model, token)] if fallback and model.fallbacks else [model]
        usable = [candidate for candidate in candidates if candidate.targets and candidate.lacks(needs) is None]
        if not usable:
            raise NoProviderConfigured(f"The model '{model.name}' cannot be used now: {model.why_unusable}")
        return usable

    def usable_models(self, token: TokenFacts) -> Iterator[tuple[str, ModelFacts]]:
        """(name, model) of everything this token may ask for, aliases included."""
        for name, model in self.models.items():
            if name in token.models:
                yield name, model
        for alias, name in self.aliases.items():
            if (aliased := self.models.get(name)) and (alias in token.models or name in token.models):
                yield alias, aliased

    def virtual_names(self, token: TokenFacts) -> list[str]:
        """The names under which this token may leave the choice to the router."""
        if not self.entitlement.allows("routing"):
            return []
        if not any(name in token.models for name in self.routing.contestants):
            return []
        return sorted(name for name in {*VIRTUAL_NAMES, *self.aliases} if self.leaves_choice(name))

    def _find(self, name: str) -> ModelFacts | None:
        if found := self.models.get(name):
            return found
        if found := self.models.get(self.aliases.get(name, "")):
            return found
        provider, slash, rest = name.partition("/")
        if slash:
            for model in self.models.values():
                if model.provider_name == provider and rest in (model.name, model.vendor_model):
                    return model
        return None

    def _fallbacks(self, model: ModelFacts, token: TokenFacts) -> Iterator[ModelFacts]:
        seen = {model.name}
        for name in model.fallbacks:
            candidate = self._find(name)
            if candidate is not None and candidate.name not in seen and candidate.name in token.models:
                seen.add(candidate.name)
                yield candidate

    def _unknown(self, name: str, token: TokenFacts) -> str:
        known = [known for known, _ in self.usable_models(token)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
        return f"The model '{name[:200]}' does not exist or you do not have access to it.{hint}"


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)
