"""The gateway's part of the management API."""

from typing import Any
from uuid import UUID

from django.http import Http404
from rest_framework.decorators import action
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ViewSet

from gateway import circuits
from gateway.circuits import Circuit, CircuitsUnavailable
from gateway.models import Model
from tenants.authentication import Manager
from tenants.roles import Permission


class Unavailable(APIException):
    status_code = 503
    default_detail = "The circuit breakers cannot be asked at the moment."
    default_code = "overloaded"


class CircuitBreakers(ViewSet):
    """One breaker for each deployment of a model; ``id`` is the deployment's, of a model's own provider the model's."""

    lookup_value_converter = "uuid"

    def list(self, request: Request) -> Response:
        try:
            found = circuits.circuits_of(_models(request, Permission.VIEW))
        except CircuitsUnavailable as exc:
            raise Unavailable from exc
        return Response({"data": [_described(circuit) for circuit in found]})

    @action(detail=True, methods=["post"])
    def trip(self, request: Request, pk: UUID) -> Response:
        return self._switch(request, pk, circuits.trip)

    @action(detail=True, methods=["post"])
    def reset(self, request: Request, pk: UUID) -> Response:
        return self._switch(request, pk, circuits.reset)

    @staticmethod
    def _switch(request: Request, pk: UUID, act: Any) -> Response:
        """What a caller may see but not switch is as unknown to it as what does not exist."""
        way = circuits.find(_models(request, Permission.MANAGE_PROVIDERS), pk)
        if way is None:
            raise Http404
        try:
            act(way, request.user.actor)
            circuit = circuits.circuit_of(way)
        except CircuitsUnavailable as exc:
            raise Unavailable from exc
        return Response(_described(circuit))


def _models(request: Request, permission: Permission) -> Any:
    manager: Manager = request.user
    tenants = manager.tenants_allowing(permission)
    models = Model.objects.filter(enabled=True)
    return models if tenants is None else models.filter(tenant__in=tenants)


def _described(circuit: Circuit) -> dict[str, Any]:
    way = circuit.way
    return {
        "id": str(way.pk),
        "tenant": way.model.tenant.slug if way.model.tenant else None,
        "provider": way.provider.name,
        "model": way.model.name,
        "vendor_model": way.effective_vendor_model,
        "state": circuit.state,
        "since": circuit.since,
        "retry_at": circuit.retry_at,
        "last_error": circuit.last_error or None,
        "by_hand": circuit.by_hand,
    }


router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("circuit-breakers", CircuitBreakers, basename="circuit-breaker")
