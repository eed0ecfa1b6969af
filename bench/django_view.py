"""The gateway's pipeline behind a plain Django async view instead of its Channels consumer, to show the difference.

Django at its leanest: one URL, no middleware. A caller that hangs up is not noticed, which the consumer would.
"""

import os
import time

import uuid_utils

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

settings.ROOT_URLCONF = __name__
settings.MIDDLEWARE = []
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter  # noqa: E402 - after the apps are ready
from django.core.handlers.asgi import ASGIRequest  # noqa: E402
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from gateway import runtime  # noqa: E402
from gateway.asgi import lifespan  # noqa: E402
from gateway.call import Call, Headers, WholeAnswer  # noqa: E402
from gateway.errors import GatewayError  # noqa: E402
from gateway.wire import openai_chat  # noqa: E402
from tenants.network import client_address  # noqa: E402
from tenants.tokens import bearer_from  # noqa: E402


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
    response = HttpResponse(answer.body) if isinstance(answer, WholeAnswer) else StreamingHttpResponse(answer.events)
    return _with_headers(response, answer.headers)


def _with_headers(response: HttpResponseBase, headers: Headers) -> HttpResponseBase:
    for name, value in headers:
        response[name.decode()] = value.decode()
    return response


urlpatterns = [path("v1/chat/completions", chat_completions)]
application = ProtocolTypeRouter({"http": django_application, "lifespan": lifespan})
