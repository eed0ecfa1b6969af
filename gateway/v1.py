"""The part of /v1 that is answered here rather than forwarded to a vendor."""

from datetime import UTC, datetime
from typing import Any

import uuid_utils
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI

from billing.allowances import usage_of
from gateway import runtime
from gateway.errors import GatewayError, InternalError, InvalidApiKey, ModelNotFound, NotFound
from gateway.policy import ModelFacts, TenantPolicy, TokenFacts
from gateway.wire import anthropic_messages, openai_chat
from tenants.network import client_address
from tenants.tokens import bearer_from

ANTHROPIC_HEADER = "anthropic-version"

Caller = tuple[TenantPolicy, TokenFacts]


async def authenticate(request: HttpRequest) -> Caller:
    """The caller's policy as of now: without an admission to compare epochs, memory would not do."""
    scope = request.scope  # type: ignore[attr-defined]
    credential = bearer_from(scope["headers"])
    if not credential:
        raise InvalidApiKey("You did not provide an API key. Send it as 'Authorization: Bearer <key>'.")
    running = await runtime.current()
    policy, token = await running.policies.find_anew(credential)
    token.authorise("inference", client_address(scope, settings.TRUSTED_PROXIES))
    return policy, token


api = NinjaAPI(docs_url=None, openapi_url=None, urls_namespace="v1", auth=authenticate)


@api.exception_handler(GatewayError)
def render(request: HttpRequest, error: GatewayError) -> HttpResponse:
    request_id = str(uuid_utils.uuid7())
    dialect = anthropic_messages if ANTHROPIC_HEADER in request.headers else openai_chat
    response = HttpResponse(
        dialect.render_error(error, request_id), status=error.status, content_type="application/json"
    )
    response["x-request-id"] = request_id
    if error.retry_after_s is not None:
        response["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.should_retry is not None:
        response["x-should-retry"] = str(error.should_retry).lower()
    return response


@api.exception_handler(Exception)
def render_bug(request: HttpRequest, error: Exception) -> HttpResponse:
    return render(request, InternalError("An internal error occurred."))


@api.get("/models")
async def list_models(request: HttpRequest) -> dict[str, Any]:
    """What this key may use, in OpenAI's shape, or Anthropic's where its version header is sent."""
    policy, token = request.auth  # type: ignore[attr-defined]
    usable = sorted(policy.usable_models(token), key=lambda pair: pair[0])
    if ANTHROPIC_HEADER in request.headers:
        entries = [_anthropic_model(name, model) for name, model in usable]
        first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
        return {"data": entries, "has_more": False, "first_id": first, "last_id": last}
    return {"object": "list", "data": [_openai_model(name, model) for name, model in usable]}


@api.get("/models/{path:name}")
async def get_model(request: HttpRequest, name: str) -> dict[str, Any]:
    """One model; a name may have slashes in it."""
    policy, token = request.auth  # type: ignore[attr-defined]
    for known, model in policy.usable_models(token):
        if known == name:
            return _anthropic_model(name, model) if ANTHROPIC_HEADER in request.headers else _openai_model(name, model)
    raise ModelNotFound(f"The model '{name[:200]}' does not exist or you do not have access to it.", param="model")


@api.get("/usage")
async def usage(request: HttpRequest) -> dict[str, Any]:
    """What this key has spent, what it may still spend, and how fast it may go."""
    _, token = request.auth  # type: ignore[attr-defined]
    return await sync_to_async(usage_of)(token.id)


@api.api_operation(["GET", "POST", "PUT", "PATCH", "DELETE"], "/{path:rest}", auth=None)
def unknown_path(request: HttpRequest, rest: str) -> dict[str, Any]:
    """Open because it tells nothing: any other path is unknown whoever asks."""
    raise NotFound(f"Unknown request URL: {request.method} /v1/{rest[:200]}.")


def _openai_model(name: str, model: ModelFacts) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": model.created_at, "owned_by": model.provider_name}


def _anthropic_model(name: str, model: ModelFacts) -> dict[str, Any]:
    created = datetime.fromtimestamp(model.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}
