"""The operators' site: who may enter, in which order it lists things, and its start page."""

import uuid
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.autocomplete import AutocompleteJsonView
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path

from audit.actions import Action
from audit.record import Actor, changes_between, record
from gateway import circuits
from gateway.admin_columns import NOTHING, owned_label
from gateway.models import Model
from gateway.operations import Hour, overview
from tenants.models import User
from tenants.network import client_address

APP_ORDER = ("tenants", "gateway", "routing", "billing", "audit")
MODEL_ORDER = (
    "Tenant", "Project", "ApiToken", "User", "Membership",
    "Provider", "Model", "Alias", "RequestLog", "ProviderKey", "RequestContent",
    "RoutingSettings", "StrategyChoice", "Decision", "Label", "Feedback", "Experiment", "ExperimentEvidence", "Ramp",
    "RouterState", "WeightSnapshot", "PublishedScore", "DriftWatch", "ReplayVerdict", "BankedConversation",
    "JudgeSample",
    "Budget", "RateLimit", "Subscription", "Plan", "Attempt", "Settlement", "Adjustment", "PriceVersion",
    "UsageHour", "UsageHourTag", "UsageHourUser", "UsageReport", "MeterEvent",
    "Alert", "AlertRule", "AlertChannel", "AlertDelivery", "GatewayProcess",
    "AuditEvent", "AuditCheckpoint", "JobRun",
)  # fmt: skip
CHART_HEIGHT = 80
BAR_STEP = 12
CIRCUIT_SWITCH = {"trip": (circuits.trip, "tripped"), "reset": (circuits.reset, "reset")}


@dataclass(frozen=True, slots=True)
class Bar:
    """One hour of the start page's chart, in the units of its view box."""

    x: int
    requests_y: float
    requests_height: float
    errors_y: float
    errors_height: float
    title: str


class OwnedAutocomplete(AutocompleteJsonView):
    """Suggestions name the tenant: names are unique within a tenant only."""

    def serialize_result(self, obj: Any, to_field_name: str) -> dict[str, str]:
        return {"id": str(getattr(obj, to_field_name)), "text": owned_label(obj)}

    def get_queryset(self) -> Any:
        rows = super().get_queryset()
        return rows.select_related("tenant") if hasattr(self.source_field.related_model, "tenant_id") else rows


class OperatorSite(admin.AdminSite):
    site_header = "Pointsman"
    site_title = "Pointsman"
    index_title = "Today"
    site_url = None  # type: ignore[assignment]
    empty_value_display = NOTHING
    enable_nav_sidebar: ClassVar[bool] = True

    def has_permission(self, request: HttpRequest) -> bool:
        """Operators see all tenants, so only those who may do everything are let in."""
        return bool(request.user.is_active and request.user.is_staff and request.user.is_superuser)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        today = overview()
        peak = max(hour.requests for hour in today.hours)
        figures = {"overview": today, "bars": chart(today.hours), "chart_height": CHART_HEIGHT, "peak": peak}
        return super().index(request, {**figures, **(extra_context or {})})

    def get_urls(self) -> list[Any]:
        return [
            path("circuit-breakers/", self.admin_view(self.circuit_breakers), name="circuit_breakers"),
            *super().get_urls(),
        ]

    def circuit_breakers(self, request: HttpRequest) -> HttpResponse:
        """Every target's breaker, with a switch for each."""
        if request.method == "POST":
            return self._switch_circuit(request)
        try:
            found = circuits.circuits_of(Model.objects.filter(enabled=True))
        except circuits.CircuitsUnavailable:
            found = []
            messages.error(request, "Redis, where the breakers are shared, does not answer.")
        context = {**self.each_context(request), "title": "Circuit breakers", "circuits": found}
        return TemplateResponse(request, "admin/circuit_breakers.html", context)

    def _switch_circuit(self, request: HttpRequest) -> HttpResponse:
        act, done = CIRCUIT_SWITCH.get(request.POST.get("act", ""), (None, ""))
        try:
            chosen = uuid.UUID(request.POST.get("target", ""))
        except ValueError:
            act = None
        if act is None:
            return HttpResponseBadRequest("Trip or reset, and which target?")
        way = circuits.find(Model.objects.all(), chosen)
        if way is None:
            raise Http404
        try:
            act(way, self.actor(request))
        except circuits.CircuitsUnavailable:
            messages.error(request, "Redis, where the breakers are shared, does not answer: nothing was changed.")
        else:
            messages.success(request, f"{way}: {done}. Every process follows within a second or two.")
        return redirect("admin:circuit_breakers")

    def autocomplete_view(self, request: HttpRequest) -> HttpResponse:
        return OwnedAutocomplete.as_view(admin_site=self)(request)

    def actor(self, request: HttpRequest) -> Actor:
        """Whom the audit trail names: the operator who is signed in, and from where."""
        connection = {
            "client": (request.META["REMOTE_ADDR"], 0),
            "headers": [(b"x-forwarded-for", request.META.get("HTTP_X_FORWARDED_FOR", "").encode())],
        }
        address = client_address(connection, settings.TRUSTED_PROXIES)
        return Actor.person(request.user, address)

    @transaction.atomic
    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """An operator's own; recorded like everybody else's."""
        before = User.objects.get(pk=request.user.pk)
        response = super().password_change(request, extra_context)
        if changes := changes_between(before, User.objects.get(pk=before.pk)):
            record(self.actor(request), Action.USER_CHANGED, before, tenant=None, changes=changes)
        return response

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """In the order of an operator's day rather than the alphabet's."""
        apps = [app for app in super().get_app_list(request, app_label) if app["app_label"] in APP_ORDER]
        apps.sort(key=lambda app: APP_ORDER.index(app["app_label"]))
        for app in apps:
            app["models"].sort(key=lambda model: _place(model["object_name"]))
        return apps


def _place(model: str) -> int:
    """Of a model on the start page; one that nobody has given a place comes last rather than breaking every page."""
    return MODEL_ORDER.index(model) if model in MODEL_ORDER else len(MODEL_ORDER)


def chart(hours: list[Hour]) -> list[Bar]:
    """Bars of the last hours, errors drawn over the foot of their requests."""
    highest = max((hour.requests for hour in hours), default=0) or 1
    bars = []
    for number, hour in enumerate(hours):
        height = round(CHART_HEIGHT * hour.requests / highest, 2)
        errors = round(CHART_HEIGHT * hour.errors / highest, 2)
        title = f"{hour.starts_at:%H:%M} UTC: {hour.requests:,} requests, {hour.errors:,} errors"
        bars.append(Bar(number * BAR_STEP, CHART_HEIGHT - height, height, CHART_HEIGHT - errors, errors, title))
    return bars
