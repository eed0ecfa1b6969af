"""Probes and the front door."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from gateway import runtime


@require_safe
async def live(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
async def ready(request: HttpRequest) -> JsonResponse:
    """Requests can be served: the ledger can be written. Redis being away does not count, it is an accelerator."""
    running = await runtime.current()
    writable = await running.ledger.ready()
    return JsonResponse(
        {"status": "ok" if writable else "unavailable", "ledger": "ok" if writable else "cannot be written"},
        status=200 if writable else 503,
    )


@require_safe
def front_door(request: HttpRequest) -> HttpResponse:
    return redirect("admin:index")
