"""The part of /v1 that is answered here rather than forwarded to a vendor."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI

from billing.allowances import Reach, usage_of
from gateway import runtime
from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidApiKey,
    MethodNotAllowed,
    ModelNotAllowed,
    ModelNotFound,
    NotFound,
    RequestTooLarge,
)
from gateway.policy import TenantPolicy, TokenFacts
from gateway.ratings import LARGEST_RATING_BYTES, keep_rating, read_rating
from gateway.wire import anthropic_messages, openai_chat
from tenants.network import client_address
from tenants.tokens import bearer_from

ANTHROPIC_HEADER = "anthropic-version"
OURSELVES = "pointsman"  # the owner of names that leave the choice to the router

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
        response["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.should_retry is not None:
        response["x-should-retry"] = str(error.should_retry).lower()
    return response


@api.exception_handler(Exception)
def render_bug(request: HttpRequest, error: Exception) -> HttpResponse:
    return render(request, InternalError("An internal error occurred."))


@api.get("/models")
async def list_models(request: HttpRequest) -> dict[str, Any]:
    """What this key may use, in OpenAI's shape, or Anthropic's where its version header is sent."""
    entries = list(_entries(request).values())
    if ANTHROPIC_HEADER in request.headers:
        first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
        return {"data": entries, "has_more": False, "first_id": first, "last_id": last}
    return {"object": "list", "data": entries}


@api.get("/models/{path:name}")
async def get_model(request: HttpRequest, name: str) -> dict[str, Any]:
    """One model; a name may have slashes in it."""
    return _entries(request).get(name) or _known_to_chat(request, name)


@api.get("/usage")
async def usage(request: HttpRequest) -> dict[str, Any]:
    """What this key has spent, what it may still spend, and how fast it may go."""
    policy, token = request.auth  # type: ignore[attr-defined]
    models = [model for _, model in policy.usable_models(token)]
    providers = {target.provider_name for model in models for target in model.targets}
    reach = Reach(frozenset(model.name for model in models), frozenset(providers))
    return await sync_to_async(usage_of)(token.id, reach)


@api.post("/feedback")
async def give_feedback(request: HttpRequest) -> dict[str, Any]:
    """Rate the answer to one of this project's requests. ``learned``: the router takes the rating in."""
    policy, token = request.auth  # type: ignore[attr-defined]
    try:
        rating = read_rating(request.body)
    except RequestDataTooBig:
        raise RequestTooLarge(f"A rating has at most {LARGEST_RATING_BYTES} bytes.") from None
    learned = await keep_rating(policy, token, rating)
    return {"object": "feedback", "request_id": str(rating.request_id), "learned": learned}


@api.api_operation(["GET", "PUT", "PATCH", "DELETE"], "/feedback")
async def feedback_is_only_given(request: HttpRequest) -> None:
    raise MethodNotAllowed(f"{request.method} is not supported here; use POST.")


@api.api_operation(["GET", "POST", "PUT", "PATCH", "DELETE"], "/{path:rest}", auth=None)
def unknown_path(request: HttpRequest, rest: str) -> dict[str, Any]:
    """Open because it tells nothing: any other path is unknown whoever asks."""
    raise NotFound(f"Unknown request URL: {request.method} /v1/{rest[:200]}.")


def _entries(request: HttpRequest) -> dict[str, dict[str, Any]]:
    """By name: what the caller's key may use, and the names under which it leaves the choice to the router."""
    policy, token = request.auth  # type: ignore[attr-defined]
    entry = _entry_of(request)
    found = {name: entry(name, model.created_at, model.provider_name) for name, model in policy.usable_models(token)}
    newest = max((model.created_at for model in policy.models.values()), default=0)
    found |= {name: entry(name, newest, OURSELVES) for name in policy.virtual_names(token)}
    return dict(sorted(found.items()))


def _known_to_chat(request: HttpRequest, name: str) -> dict[str, Any]:
    """By a name that is in no list, such as ``provider/name``. Raises ModelNotFound."""
    policy, token = request.auth  # type: ignore[attr-defined]
    try:
        model = policy.resolve(name, token)
    except ModelNotAllowed:
        message = f"The model '{name[:200]}' does not exist or you do not have access to it."
        raise ModelNotFound(message, param="model") from None
    return _entry_of(request)(name, model.created_at, model.provider_name)


def _entry_of(request: HttpRequest) -> Callable[[str, int, str], dict[str, Any]]:
    return _anthropic_model if ANTHROPIC_HEADER in request.headers else _openai_model


def _openai_model(name: str, created_at: int, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_at, "owned_by": owner}


def _anthropic_model(name: str, created_at: int, owner: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}
