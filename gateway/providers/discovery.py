"""What an operator asks of a provider before relying on it: which models it has, and whether it answers."""

import time
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gateway.errors import GatewayError, ProviderError
from gateway.providers.catalog import ModelList
from gateway.providers.client import CALLER_FORMATS, CANONICAL, VendorClient, refusal_of
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.wire.types import Usage

MAX_LIST_BYTES = 16 * 1024 * 1024
LIST_DEADLINES = Deadlines(first_byte=20.0, between_chunks=20.0, total=30.0)

Stage = Literal["configuration", "connect", "credentials", "model", "answer"]


class DiscoveredModel(Struct, frozen=True):
    """A model a provider lists; sizes in tokens where the provider tells them."""

    id: str
    context_window: int | None = None
    max_output_tokens: int | None = None


class ProbeResult(Struct, frozen=True):
    """How a probe went. ``stage`` is where it failed (``answer`` when it did not); ``message`` says why, in
    words that are safe to show. ``usage`` is what the vendor counted, None where it counted nothing."""

    ok: bool
    stage: Stage
    message: str
    latency_ms: float
    usage: Usage | None = None
    error: GatewayError | None = None


async def list_models(
    client: VendorClient, *, kind: str, base_url: str, secret: str, deadlines: Deadlines = LIST_DEADLINES
) -> list[DiscoveredModel]:
    """The models a provider offers, by identifier.

    Raises ProviderError: among others where the vendor has no list, refuses the key, or answers with
    something else than a list.
    """
    endpoint = client.endpoint(kind, base_url, secret)
    request = endpoint.models_request()
    layout = endpoint.vendor.models
    if request is None or layout is None:
        raise ProviderError(f"{endpoint.vendor.label} does not list its models.", kind="protocol", retryable=False)
    response = await endpoint.sender.send(request, deadlines)
    if response.status != 200:
        raise await refusal_of(endpoint.format_of("chat", CANONICAL), response)
    models = _read_list(await response.read(MAX_LIST_BYTES), layout)
    return sorted(models, key=lambda model: model.id)


def _read_list(body: bytes, layout: ModelList) -> list[DiscoveredModel]:
    try:
        entries = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        entries = None
    if layout.items is not None:
        entries = entries.get(layout.items) if isinstance(entries, dict) else None
    if not isinstance(entries, list):
        raise ProviderError("The provider's answer is not a list of models.", kind="protocol")
    return [
        DiscoveredModel(
            id=entry[layout.id].removeprefix(layout.id_prefix),
            context_window=_size(entry, layout.context_window),
            max_output_tokens=_size(entry, layout.max_output_tokens),
        )
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get(layout.id), str)
    ]


def _size(entry: dict[str, Any], name: str | None) -> int | None:
    value = entry.get(name) if name else None
    return value if isinstance(value, int) and value > 0 else None


async def probe(client: VendorClient, target: Target) -> ProbeResult:
    """Asks ``target`` for one token's worth, as a caller would; never raises for what the provider does."""
    caller_format = CALLER_FORMATS["openai_chat"]
    body = {"model": target.model_name, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 16}
    request = caller_format.parse_request(msgspec.json.encode(body), {})
    started = time.perf_counter()
    try:
        client.endpoint(target.kind, target.base_url, target.secret)
    except ProviderError as error:
        return ProbeResult(False, "configuration", error.message, _ms_since(started), error=error)
    try:
        completion = await client.complete(target, request, target.deadlines)
    except GatewayError as error:
        return ProbeResult(False, _stage_of(error), error.message, _ms_since(started), error=error)
    told = f"{completion.model or target.vendor_model} answered."
    return ProbeResult(True, "answer", told, _ms_since(started), completion.usage)


def _stage_of(error: GatewayError) -> Stage:
    if not isinstance(error, ProviderError):
        return "answer"
    if error.vendor_status in {401, 403}:
        return "credentials"
    if error.vendor_status == 404:
        return "model"
    if error.vendor_status is not None or error.kind in {"protocol", "stream"}:
        return "answer"
    return "connect"


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
