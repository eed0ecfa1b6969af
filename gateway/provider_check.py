"""Tries a configured provider out: which models it lists, and whether it answers one short question.

What the check found is kept on the provider, where the admin and ``doctor`` show it. The question is a line of the
ledger like every call of a vendor, with the purpose ``test``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from django.conf import settings
from django.db import transaction

from billing.models import Attempt, GatewayProcess, Settlement
from billing.pricing import to_usd
from gateway.dispatch.attempt import UNKNOWN_USE, error_code, failed_usage, vendor_status
from gateway.errors import GatewayError
from gateway.models import Model, Provider
from gateway.operations import effective_prices
from gateway.providers import catalog
from gateway.providers.addresses import AddressGuard
from gateway.providers.client import VendorClient
from gateway.providers.discovery import DiscoveredModel, ProbeResult, list_models, probe
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.providers.transport import Transport
from gateway.rows import new_id
from gateway.wire.types import TOKEN_CLASSES
from tenants.crypto import DecryptionFailed

DEADLINES: Final = Deadlines(first_byte=30.0, between_chunks=30.0, total=60.0)
_LONGEST_MESSAGE: Final = 500
_PROCESS_LABEL: Final = "a check of a provider"

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """``models`` is None where they cannot be listed, and ``listing`` says why; ``model`` is the vendor's name of
    what was asked. ``stage`` is where it failed: configuration, connect, credentials, model, answer."""

    provider: str
    ok: bool
    stage: str
    message: str
    model: str | None = None
    latency_ms: float | None = None
    models: list[str] | None = None
    listing: str = ""


def check_provider(provider: Provider, model: str | None = None) -> ProviderCheck:
    """List the provider's models and ask one of them for one token's worth; blocks for up to 90 s.

    ``model`` is a configured model of this provider or a name of the vendor's; by default the first configured
    one, else the first listed one. Never raises for what the provider does; writes the provider's check status.
    """
    try:
        secret = _secret_of(provider)
    except _KeyMissing:
        result = ProviderCheck(provider.name, False, "configuration", "The provider has no key, and needs one.")
    except DecryptionFailed as exc:
        result = ProviderCheck(provider.name, False, "configuration", f"The provider's key cannot be read: {exc}.")
    else:
        result = _try_out(provider, secret, _vendor_model(provider, model))
    _remember(provider, result)
    return result


class _KeyMissing(Exception):
    """Its vendor answers nobody without one."""


def _secret_of(provider: Provider) -> str:
    key = provider.active_key()
    if key is None and catalog.get(provider.kind).key_required:
        raise _KeyMissing
    return key.reveal() if key else ""


def _vendor_model(provider: Provider, name: str | None) -> str | None:
    configured = Model.objects.filter(provider=provider)
    if name is None:
        first = configured.filter(enabled=True).order_by("name").first()
        return first.vendor_model if first else None
    named = configured.filter(name=name).first()
    return named.vendor_model if named else name


def _try_out(provider: Provider, secret: str, vendor_model: str | None) -> ProviderCheck:
    models, listing = asyncio.run(_with_client(lambda client: _list(client, provider, secret)))
    names = [model.id for model in models] if models is not None else None
    vendor_model = vendor_model or (names[0] if names else None)
    if vendor_model is None:
        message = listing or "The provider lists no models; name one with --model."
        return ProviderCheck(provider.name, False, "model", message, models=names, listing=listing)
    target = _target(provider, secret, vendor_model)
    line = _open_line(provider, vendor_model)  # committed before the vendor hears of it, like every call
    result = asyncio.run(_with_client(lambda client: probe(client, target)))
    _settle(line, result)
    return ProviderCheck(
        provider.name, result.ok, result.stage, result.message, vendor_model, result.latency_ms, names, listing
    )


async def _with_client(use: Callable[[VendorClient], Awaitable[Found]]) -> Found:
    async with Transport(AddressGuard(settings.ALLOWED_UPSTREAMS)) as transport:
        return await use(VendorClient(transport))


def _open_line(provider: Provider, vendor_model: str) -> Attempt:
    configured = Model.objects.filter(provider=provider, vendor_model=vendor_model).first()
    asked = configured or Model(tenant=provider.tenant, provider=provider, vendor_model=vendor_model)
    process = GatewayProcess.objects.create(label=_PROCESS_LABEL, started_at=_now(), heartbeat_at=_now())
    return Attempt.objects.create(
        request_id=new_id(),
        tenant=provider.tenant,
        purpose=Attempt.Purpose.TEST,
        provider=provider,
        provider_key=provider.active_key(),
        model=configured,
        vendor_model=vendor_model,
        price_version=effective_prices([asked]).get(asked.pk),
        process_id=process.pk,
        started_at=_now(),
    )


@transaction.atomic
def _settle(line: Attempt, result: ProbeResult) -> None:
    usage = result.usage or (failed_usage(result.error) if result.error else UNKNOWN_USE)
    price = line.price_version.as_priced_version().price if line.price_version else None
    Settlement.objects.create(
        attempt=line,
        tenant=line.tenant,
        outcome=Settlement.Outcome.SETTLED if result.ok else Settlement.Outcome.FAILED,
        **{f"{name}_tokens": getattr(usage, name) for name in TOKEN_CLASSES},
        usage_source=usage.source,
        service_tier=usage.service_tier,
        cost_usd=to_usd(price.cost(usage) if result.ok else 0) if price else None,
        price_version=line.price_version,
        status_code=vendor_status(result.error),
        error_code=error_code(result.error),
        ended_at=_now(),
    )
    GatewayProcess.objects.filter(pk=line.process_id).delete()


def _now() -> datetime:
    return datetime.now(UTC)


async def _list(client: VendorClient, provider: Provider, secret: str) -> tuple[list[DiscoveredModel] | None, str]:
    """The models, or why there is no list: some vendors have none, so that alone is no failure."""
    if catalog.get(provider.kind).models is None or provider.kind == "demo":
        return None, f"{catalog.get(provider.kind).label} does not list its models."
    try:
        return await list_models(client, kind=provider.kind, base_url=provider.base_url, secret=secret), ""
    except GatewayError as error:
        return None, error.message


def _target(provider: Provider, secret: str, vendor_model: str) -> Target:
    return Target(
        provider_id=str(provider.pk),
        provider_name=provider.name,
        kind=provider.kind,
        base_url=provider.effective_base_url,
        provider_key_id=None,
        secret=secret,
        model_id="",
        model_name=vendor_model,
        vendor_model=vendor_model,
        deadlines=DEADLINES,
        profile=catalog.get(provider.kind).profile,
    )


def _remember(provider: Provider, result: ProviderCheck) -> None:
    """An observation and no act of management, so there is no audit event."""
    Provider.objects.filter(pk=provider.pk).update(
        check_status=Provider.Status.OK if result.ok else Provider.Status.FAILING,
        check_message=result.message[:_LONGEST_MESSAGE],
        checked_at=datetime.now(UTC),
    )
