"""The gateway's pipeline behind a plain Django async view instead of its Channels consumer, to show the difference.

Django at its leanest: one URL, no middleware. A caller that hangs up is not noticed, which the consumer would.
"""

import time
from collections.abc import AsyncIterator
from typing import cast

import uuid_utils
from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import path

from gateway import runtime
from gateway.asgi import get_asgi_application, lifespan
from gateway.errors import GatewayError
from gateway.pipeline import Call, Headers, WholeAnswer
from gateway.wire import openai_chat
from tenants.network import client_address
from tenants.tokens import bearer_from


async def chat_completions(request: ASGIRequest) -> HttpResponseBase:
    call = Call(
        request_id=str(uuid_utils.uuid7()),
        caller=openai_chat,
        body=request.body,
        headers={name.lower(): value for name, value in request.headers.items()},
        credential=bearer_from(request.scope["headers"]),
        client_ip=client_address(request.scope, settings.TRUSTED_PROXIES),
        received=time.perf_counter(),
    )
    try:
        answer = await (await runtime.current()).pipeline.run(call)
    except GatewayError as error:
        body = openai_chat.render_error(error, call.request_id)
        return HttpResponse(body, status=error.status, content_type="application/json")
    response: HttpResponseBase
    if isinstance(answer, WholeAnswer):
        response = HttpResponse(answer.body)
    else:
        response = StreamingHttpResponse(cast("AsyncIterator[bytes]", answer.events))
    return _with_headers(response, answer.headers)


def _with_headers(response: HttpResponseBase, headers: Headers) -> HttpResponseBase:
    for name, value in headers:
        response[name.decode()] = value.decode()
    return response


urlpatterns = [path("v1/chat/completions", chat_completions)]
settings.ROOT_URLCONF = __name__
settings.MIDDLEWARE = []
application = ProtocolTypeRouter({"http": get_asgi_application(), "lifespan": lifespan})
