"""Tries a configured provider out: which models it lists, and whether it answers one short question.

What the check found is kept on the provider, where the admin and ``doctor`` show it.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from django.conf import settings

from gateway.errors import GatewayError
from gateway.models import Model, Provider
from gateway.providers import catalog
from gateway.providers.addresses import AddressGuard
from gateway.providers.client import VendorClient
from gateway.providers.discovery import DiscoveredModel, list_models, probe
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.providers.transport import Transport
from tenants.crypto import DecryptionFailed

DEADLINES: Final = Deadlines(first_byte=30.0, between_chunks=30.0, total=60.0)
_LONGEST_MESSAGE: Final = 500


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
    except DecryptionFailed as exc:
        result = ProviderCheck(provider.name, False, "configuration", f"The provider's key cannot be read: {exc}.")
    else:
        result = asyncio.run(_try_out(provider, secret, _vendor_model(provider, model)))
    _remember(provider, result)
    return result


def _secret_of(provider: Provider) -> str:
    key = provider.active_key()
    return key.reveal() if key else ""


def _vendor_model(provider: Provider, name: str | None) -> str | None:
    configured = Model.objects.filter(provider=provider)
    if name is None:
        first = configured.filter(enabled=True).order_by("name").first()
        return first.vendor_model if first else None
    named = configured.filter(name=name).first()
    return named.vendor_model if named else name


async def _try_out(provider: Provider, secret: str, vendor_model: str | None) -> ProviderCheck:
    async with Transport(AddressGuard(settings.ALLOWED_UPSTREAMS)) as transport:
        client = VendorClient(transport)
        models, listing = await _list(client, provider, secret)
        if vendor_model is None and models:
            vendor_model = models[0].id
        names = [model.id for model in models] if models is not None else None
        if vendor_model is None:
            message = listing or "The provider lists no models; name one with --model."
            return ProviderCheck(provider.name, False, "model", message, models=names, listing=listing)
        result = await probe(client, _target(provider, secret, vendor_model))
    return ProviderCheck(
        provider.name, result.ok, result.stage, result.message, vendor_model, result.latency_ms, names, listing
    )


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
