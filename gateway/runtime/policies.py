"""Tenants' policies: loaded from rows when a process first needs them, then kept in its memory."""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from django.db import DatabaseError, InterfaceError, close_old_connections
from django.db.models import Min, Q, QuerySet

from billing.budgets import BudgetFacts, Metric, Scope
from billing.ledger import ADMISSION_DEADLINE_S
from billing.models import Budget, PriceVersion, RateLimit, Subscription
from billing.pricing import PricedVersion, select
from billing.windows import Kind, Window
from gateway.errors import InvalidApiKey, LedgerUnavailable
from gateway.models import Alias, Deployment, Model, Provider, ProviderKey
from gateway.policy import ModelFacts, NamePatterns, TenantPolicy, TokenFacts
from gateway.providers import catalog
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.runtime.routing import load_routing
from routing.facts import RoutingFacts
from tenants import tokens
from tenants.crypto import DecryptionFailed
from tenants.models import ApiToken, Tenant
from tenants.ratelimit import LimitFacts
from tenants.ratelimit.rules import Scope as LimitScope

logger = logging.getLogger(__name__)

LOADERS = 4  # threads that load policies; only misses come here
MOST_REMEMBERED_TOKENS = 100_000


class PolicyStore:
    """Tenants' policies in this process's memory, by the full digest of the token that asks.

    Nothing here expires by time: the ledger's admission says when a snapshot has been overtaken.
    """

    def __init__(self, peppers: tokens.Peppers) -> None:
        self._peppers = peppers
        self._tokens: dict[bytes, TokenFacts] = {}
        self._policies: dict[str, TenantPolicy] = {}
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="policy")
        self._loading: dict[bytes, asyncio.Future[tuple[TenantPolicy, TokenFacts]]] = {}

    async def find(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """Raises InvalidApiKey, or LedgerUnavailable when the database cannot be asked."""
        if not tokens.plausible(credential):
            raise InvalidApiKey("Incorrect API key provided.")
        for _, digest in self._peppers.digests(credential):
            if (token := self._tokens.get(digest)) and (policy := self._policies.get(token.tenant_id)):
                if policy.valid_until is not None and policy.valid_until <= time.time():
                    break
                return policy, token
        return await self._load_once(credential)

    async def find_anew(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """As :meth:`find`, but from the database: for what is not admitted and so has no epoch compared."""
        if not tokens.plausible(credential):
            raise InvalidApiKey("Incorrect API key provided.")
        return await self._load_once(credential)

    async def overtaken(self, policy: TenantPolicy) -> bool:
        """Whether anything has been changed since. Raises LedgerUnavailable when the database cannot be asked."""
        try:
            async with asyncio.timeout(ADMISSION_DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, _overtaken, policy)
        except (DatabaseError, InterfaceError, TimeoutError):
            raise LedgerUnavailable("The configuration cannot be checked at the moment.") from None

    def forget(self, tenant_id: str) -> None:
        self._policies.pop(tenant_id, None)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load_once(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """Requests that miss together wait for one load, and no longer for it than for the ledger."""
        _, key = next(self._peppers.digests(credential))
        loading = self._loading.get(key)
        if loading is None:
            loop = asyncio.get_running_loop()
            loading = loop.run_in_executor(self._threads, self._load, credential)
            self._loading[key] = loading
            loading.add_done_callback(lambda _: self._loading.pop(key, None))
        try:
            async with asyncio.timeout(ADMISSION_DEADLINE_S):
                return await asyncio.shield(loading)
        except TimeoutError:
            raise LedgerUnavailable("API keys cannot be checked at the moment.") from None

    def _load(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """In a thread: the token, and its tenant's policy as of now."""
        close_old_connections()
        try:
            digest, token = self._load_token(credential)
            policy = load_policy(token.tenant_id)
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("policies cannot be loaded: %s", exc)
            raise LedgerUnavailable("API keys cannot be checked at the moment.") from None
        finally:
            close_old_connections()
        if len(self._tokens) >= MOST_REMEMBERED_TOKENS:
            self._tokens.clear()
        # A policy is only as fresh as the tokens beside it: what was remembered of this tenant goes.
        self._tokens = {known: facts for known, facts in self._tokens.items() if facts.tenant_id != token.tenant_id}
        self._tokens[digest] = token
        self._policies[policy.id] = policy
        return policy, token

    def _load_token(self, credential: str) -> tuple[bytes, TokenFacts]:
        for number, digest in self._peppers.digests(credential):
            if row := ApiToken.objects.filter(digest=digest, pepper_number=number).first():
                return digest, token_facts(row)
        raise InvalidApiKey("Incorrect API key provided.")


def _overtaken(policy: TenantPolicy) -> bool:
    close_old_connections()
    try:
        return not Tenant.objects.filter(pk=policy.id, policy_epoch=policy.epoch).exists()
    finally:
        close_old_connections()


def token_facts(row: ApiToken) -> TokenFacts:
    return TokenFacts(
        id=str(row.pk),
        name=row.name,
        tenant_id=str(row.tenant_id),
        project_id=str(row.project_id),
        scopes=frozenset(row.scopes),
        models=NamePatterns(row.allowed_models),
        networks=tuple(ipaddress.ip_network(cidr, strict=False) for cidr in row.allowed_cidrs),
        requests_per_minute=row.requests_per_minute,
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
        revoked=row.revoked_at is not None,
    )


def load_policy(tenant_id: str) -> TenantPolicy:
    """A tenant's policy. The epoch is read first: whatever changes during the load makes it stale, not wrong."""
    tenant = Tenant.objects.get(pk=tenant_id)
    if not tenant.enabled:
        raise InvalidApiKey("This API key's organisation is switched off.")
    models = _load_models(tenant)
    entitlement = Subscription.entitlement_of(tenant)
    return TenantPolicy(
        id=str(tenant.pk),
        slug=tenant.slug,
        epoch=tenant.policy_epoch,
        models=models,
        valid_until=_next_price_change(tenant, models.values()),
        aliases=dict(Alias.objects.filter(tenant=tenant).values_list("name", "model_name")),
        log_content=tenant.log_content and entitlement.allows("content_log"),
        budgets=_load_budgets(tenant),
        limits=_load_limits(tenant),
        routing=load_routing(tenant, models, entitlement),
        entitlement=entitlement,
    )


def routing_facts_of(tenant_id: UUID) -> RoutingFacts | None:
    """What a tenant's router may choose from; None for a tenant that is switched off."""
    try:
        return load_policy(str(tenant_id)).routing
    except InvalidApiKey:
        return None


def _load_budgets(tenant: Tenant) -> tuple[BudgetFacts, ...]:
    """The tenant's budgets, and the installation's."""
    rows = Budget.objects.filter(Q(tenant=tenant) | Q(tenant=None), enabled=True).order_by("pk")
    return tuple(
        BudgetFacts(
            id=str(row.pk),
            name=row.name,
            tenant_id=str(row.tenant_id) if row.tenant_id else None,
            scope=cast("Scope", row.scope),
            subject=str(row.project_id or row.token_id or row.subject),
            metric=cast("Metric", row.metric),
            hard=row.hard,
            window=Window(cast("Kind", row.period), tenant.time_zone if row.tenant_id else "UTC", row.rolling_s),
            is_quota=row.is_quota,
        )
        for row in rows
    )


def _load_limits(tenant: Tenant) -> tuple[LimitFacts, ...]:
    return tuple(
        LimitFacts(
            id=str(row.pk),
            scope=cast("LimitScope", row.scope),
            subject=str(row.project_id or row.token_id or row.subject),
            requests_per_minute=row.requests_per_minute or 0,
            tokens_per_minute=row.tokens_per_minute or 0,
            concurrent=row.concurrent or 0,
        )
        for row in RateLimit.objects.filter(tenant=tenant).order_by("pk")
    )


def _load_models(tenant: Tenant) -> dict[str, ModelFacts]:
    """Models by name; a tenant's own hides the installation's of the same name."""
    owned_or_shared = Q(tenant=tenant) | Q(tenant=None)
    models = Model.objects.filter(owned_or_shared, enabled=True).select_related("provider")
    rows = sorted(models.prefetch_related("deployments__provider"), key=lambda row: row.tenant_id is not None)
    models_by_name = {row.name: (row, row.ways()) for row in rows}
    providers = {way.provider for _, ways in models_by_name.values() for way in ways}
    keys = _load_keys(providers)
    prices = _load_prices(tenant, {provider.kind for provider in providers})
    return {
        name: _model_facts(row, [_target(tenant, row, way, keys, prices) for way in ways])
        for name, (row, ways) in models_by_name.items()
    }


def _load_keys(providers: Iterable[Provider]) -> dict[str, ProviderKey]:
    active = ProviderKey.objects.filter(provider__in=providers, status=ProviderKey.Status.ACTIVE)
    return {str(key.provider_id): key for key in active.select_related("provider")}


def _load_prices(tenant: Tenant, kinds: set[str]) -> list[PricedVersion]:
    """Every price that may hold for this tenant's models; of the shipped book only the kinds it uses."""
    rows = _price_rows(tenant, kinds).filter(effective_from__lte=datetime.now(UTC))
    discount = Subscription.objects.filter(tenant=tenant).values_list("discount_percent", flat=True).first() or 0
    return [row.as_priced_version(int(discount * 100)) for row in rows]


def _price_rows(tenant: Tenant, kinds: set[str]) -> QuerySet[PriceVersion]:
    return PriceVersion.objects.filter(
        Q(tenant=tenant) | Q(tenant=None), Q(model__isnull=False) | Q(provider_kind__in=kinds | {""})
    )


def _next_price_change(tenant: Tenant, models: Iterable[ModelFacts]) -> float | None:
    """When a price that is declared already begins to hold, in seconds since 1970: the policy is loaded anew then."""
    kinds = {target.kind for model in models for target in model.targets}
    coming = _price_rows(tenant, kinds).filter(effective_from__gt=datetime.now(UTC))
    first = coming.aggregate(first=Min("effective_from"))["first"]
    return first.timestamp() if first else None


def _model_facts(row: Model, ways: list[Target | str]) -> ModelFacts:
    """Ways that cannot be gone say why."""
    targets = tuple(way for way in ways if isinstance(way, Target))
    return ModelFacts(
        name=row.name,
        modality=row.modality,
        fallbacks=tuple(row.fallbacks),
        targets=targets,
        provider_name=row.provider.name,
        vendor_model=row.vendor_model,
        context_window=row.context_window,
        capabilities=frozenset(row.capabilities),
        created_at=int(row.created_at.timestamp()),
        balancing=row.balancing,
        hedging=row.hedging,
        routed=row.routed and row.modality == "chat",
        why_unusable="" if targets else " ".join(dict.fromkeys(str(way) for way in ways)),
    )


def _target(
    tenant: Tenant, row: Model, way: Deployment, keys: dict[str, ProviderKey], prices: list[PricedVersion]
) -> Target | str:
    """A deployment as the dispatcher needs it, or why it cannot be called."""
    provider, kind = way.provider, catalog.get(way.provider.kind)
    key = keys.get(str(provider.pk))
    if not provider.enabled:
        return "its provider is switched off."
    if key is None and kind.key_required:
        return "its provider has no key."
    try:
        secret = key.reveal() if key else ""
    except (
        DecryptionFailed
    ):  # a key is only ever opened with the master key it was sealed with; never replaced by another
        logger.error("the key of provider %s cannot be decrypted", provider.pk)
        return "its provider's key cannot be read."
    vendor_model = way.effective_vendor_model
    return Target(
        provider_id=str(provider.pk),
        provider_name=provider.name,
        kind=provider.kind,
        base_url=provider.effective_base_url,
        provider_key_id=str(key.pk) if key else None,
        secret=secret,
        model_id=str(row.pk),
        model_name=row.name,
        vendor_model=vendor_model,
        deadlines=_deadlines(provider.deadlines | row.deadlines),
        on_disconnect="drain" if provider.on_disconnect == Provider.OnDisconnect.DRAIN else "cancel",
        price=select(
            prices,
            provider_kind=provider.kind,
            vendor_model=vendor_model,
            model_id=str(row.pk),
            tenant_id=str(tenant.pk),
            at=datetime.now(UTC),
        ),
        profile=kind.profile,
        capabilities=frozenset(row.capabilities),
        context_window=row.context_window,
        max_output_tokens=row.max_output_tokens,
        weight=provider.weight if way.weight is None else way.weight,
    )


def _deadlines(given: dict[str, float]) -> Deadlines:
    """A limit for the first token is one for the first byte as well, where that has none of its own: an operator who
    sets it wants no silence, streamed or not."""
    if "first_token" in given:
        given = {"first_byte": given["first_token"], **given}
    return Deadlines(**given)
