"""Probes, the front door, and what leads nowhere."""

from ipaddress import ip_address

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from whitenoise.middleware import WhiteNoiseMiddleware  # type: ignore[import-untyped]
from whitenoise.responders import StaticFile  # type: ignore[import-untyped]

from gateway import observability, runtime
from tenants.network import client_address
from tenants.tokens import bearer_from

_STATUS = {True: "ok", False: "unavailable"}


@require_safe
async def live(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
async def ready(request: HttpRequest) -> JsonResponse:
    """Requests can be served: the ledger can be written. Redis being away does not count, it is an accelerator."""
    running = await runtime.current()
    parts = await running.ledger.parts()
    writable = all(parts.values())
    checks = {name: _STATUS[takes] for name, takes in parts.items()}
    return JsonResponse({"status": _STATUS[writable], "checks": checks}, status=200 if writable else 503)


@require_safe
async def metrics(request: HttpRequest) -> HttpResponse:
    """For a scraper that shows METRICS_TOKEN or comes from METRICS_NETWORKS; nobody else learns that it is there."""
    if not _may_scrape(request):
        raise Http404
    running = await runtime.current()
    running.report()
    return HttpResponse(observability.exposition(), content_type=observability.CONTENT_TYPE)


def _may_scrape(request: HttpRequest) -> bool:
    token = settings.METRICS_TOKEN
    if token:
        given = bearer_from(request.scope["headers"]) or ""  # type: ignore[attr-defined]
        return constant_time_compare(given, token)
    client = ip_address(client_address(request.scope, settings.TRUSTED_PROXIES))  # type: ignore[attr-defined]
    return any(client in network for network in settings.METRICS_NETWORKS)


@require_safe
def front_door(request: HttpRequest) -> HttpResponse:
    return redirect("admin:index")


@csrf_exempt
def unknown_api_path(request: HttpRequest, rest: str = "") -> JsonResponse:
    """In the shape of the API's own errors. Open because it tells nothing: the path is unknown whoever asks."""
    return JsonResponse({"detail": f"Unknown request URL: {request.method} /api/{rest[:200]}."}, status=404)


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc] # it is not typed
    """Sends a static file as a whole: read piece by piece, as WhiteNoise would have it, under ASGI all of it is read
    into memory first, with a warning."""

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponseBase:
        found = static_file.get_response(request.method, request.META)
        headers = dict(found.headers)
        content = b""
        if found.file is not None:
            with found.file as file:
                content = file.read()
            headers["Content-Length"] = str(len(content))  # the file may have changed since it was first looked at
        return HttpResponse(content, status=int(found.status), headers=headers)
