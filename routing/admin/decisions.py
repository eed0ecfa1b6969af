"""Why each request was routed as it was, and what was said of its answer."""

from collections.abc import Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404, redirect
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from audit.record import record
from gateway.admin_columns import NOTHING, badge, duration, exact_usd, links, list_link, when, when_column, with_detail
from gateway.admin_pages import PartitionedAdmin, ReadOnlyAdmin
from gateway.rows import moment_of
from routing.admin.pages import cell_column, filter_by, quality, request_column, router_link, tenant_column
from routing.features import TASKS
from routing.feedback import UnusableRating, rate, value_of
from routing.models import Decision, Feedback, JudgeSample, Label, RoutingSettings
from routing.overview import explained
from routing.scores import STRATEGIES

DECIDERS = (*RoutingSettings.Engine.values, "experiment", "ramp")


@admin.register(Decision)
class DecisionAdmin(PartitionedAdmin):
    """Facts, with a form for an operator's own opinion of the answer."""

    change_form_template = "admin/routing/decision/change_form.html"
    list_display = ("asked_at", "who", cell_column, "chosen_", "by", "probability", "judged_", "cost", "latency")
    list_filter = (
        filter_by("engine", DECIDERS), filter_by("strategy", STRATEGIES), filter_by("task", TASKS), "judged",
        "explored", "tenant",
    )  # fmt: skip
    list_select_related = ("tenant",)
    fields = (
        "request", "tenant", "rows", "cell_and_confidence", "by", "chosen_", "probability", "judged_",
        "state_version", "outcome", "input_tokens", "output_tokens", "cost", "latency", "end_user",
    )  # fmt: skip

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Experiments and models link to their decisions."""
        linked = ("experiment_id", "model_name", "tenant__id__exact")
        return lookup in linked or super().lookup_allowed(lookup, value, request)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.rate_view)
        return [path("<uuid:request_id>/rate/", view, name="routing_decision_rate"), *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        decision = self.get_object(request, object_id)
        why = explained(decision.pk) if decision else None
        return super().change_view(request, object_id, form_url, {"why": why, **(extra_context or {})})

    def rate_view(self, request: HttpRequest, request_id: UUID) -> HttpResponse:
        """Keeps an operator's rating, by POST only; goes back to the page it was given on."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        decision = get_object_or_404(Decision.objects.select_related("tenant"), pk=request_id)
        try:
            self._rate(request, decision)
        except UnusableRating as exc:
            self.message_user(request, str(exc), messages.ERROR)
        if request.POST.get("on") == "request":
            return redirect("admin:gateway_requestlog_change", request_id)
        return redirect("admin:routing_decision_change", request_id)

    @transaction.atomic
    def _rate(self, request: HttpRequest, decision: Decision) -> None:
        actor, score = self.admin_site.actor(request), request.POST.get("score", "")
        value = value_of(int(score) if score.isdecimal() and len(score) == 1 else 0, None)
        comment = request.POST.get("comment", "").strip()
        rated = rate(decision.tenant, decision.pk, rater=actor.label, value=value, comment=comment)
        record(actor, "answer.rated", decision, tenant=decision.tenant, changes={"score": [None, int(score)]})
        told = "The router will learn it." if rated.learned else "The router has learned an earlier one already."
        self.message_user(request, f"Your rating is kept. {told}", messages.SUCCESS)

    @admin.display(description="asked at")
    def asked_at(self, row: Decision) -> SafeString | str:
        return when(moment_of(row.pk))

    @admin.display(description="request")
    def request(self, row: Decision) -> SafeString | str:
        return list_link("gateway_requestlog", str(row.pk), q=row.pk)

    @admin.display(description="see also")
    def rows(self, row: Decision) -> SafeString:
        return links(
            [list_link("billing_attempt", "ledger lines", request_id=row.pk), router_link(row.tenant, "its router")]
        )

    @admin.display(description="who")
    def who(self, row: Decision) -> SafeString | str:
        return with_detail(row.tenant.slug, row.end_user)

    @admin.display(description="cell")
    def cell_and_confidence(self, row: Decision) -> str:
        return f"{row.task} / {row.complexity}, with confidence {row.confidence:.2f}"

    @admin.display(description="chosen")
    def chosen_(self, row: Decision) -> SafeString | str:
        if not row.model_name:
            return with_detail(row.chosen, "nobody answered")
        return with_detail(row.chosen, "" if row.model_name == row.chosen else f"answered by {row.model_name}")

    @admin.display(description="by")
    def by(self, row: Decision) -> SafeString | str:
        return with_detail(row.engine, row.strategy)

    @admin.display(description="probability")
    def probability(self, row: Decision) -> SafeString | str:
        return with_detail(f"{row.propensity:.2f}", "in order to learn" if row.explored else "")

    @admin.display(description="judged")
    def judged_(self, row: Decision) -> SafeString | str:
        if not row.judged:
            return NOTHING
        return with_detail(badge("judged", "good"), f"beside {row.challenger}" if row.challenger else "")

    @admin.display(description="outcome")
    def outcome(self, row: Decision) -> SafeString | str:
        return with_detail(badge(str(row.status), "good" if row.status < 400 else "bad"), row.finish_reason)

    @admin.display(description="cost, USD")
    def cost(self, row: Decision) -> SafeString:
        return exact_usd(row.cost_usd)

    @admin.display(description="latency")
    def latency(self, row: Decision) -> SafeString | str:
        first = f"first token {duration(row.first_token_ms)}" if row.first_token_ms is not None else ""
        return with_detail(duration(row.latency_ms), first)


@admin.register(Label)
class LabelAdmin(PartitionedAdmin):
    """What the router learns from, in the order of learning."""

    searched_ids: ClassVar[Sequence[str]] = ("pk", "request_id")
    list_display = (
        when_column("created_at", "given at"), tenant_column, "model_name", "by", "value_", cell_column, "learned",
        request_column,
    )  # fmt: skip
    list_filter = ("rater", "paired", "shared", filter_by("task", TASKS), "tenant")
    list_select_related = ("tenant",)
    fields = (
        "id", request_column, "tenant", "model_name", "identity", "by", "value_", "variance", cell_column, "end_user",
        "paired", "shared", when_column("created_at", "given at"), "learned",
    )  # fmt: skip

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in ("model_name", "tenant__id__exact") or super().lookup_allowed(lookup, value, request)

    @admin.display(description="by")
    def by(self, row: Label) -> SafeString | str:
        return with_detail(row.rater, row.rater_name)

    @admin.display(description="rating, 0-1")
    def value_(self, row: Label) -> SafeString | str:
        return with_detail(quality(row.value), "beside another answer" if row.paired else "")

    @admin.display(description="learned as number")
    def learned(self, row: Label) -> SafeString | str:
        if row.left_out:
            return with_detail(badge("left out", "quiet"), row.left_out)
        return badge("not yet", "warn") if row.position is None else f"{row.position:,}"


@admin.register(Feedback)
class FeedbackAdmin(PartitionedAdmin):
    """What people think of answers."""

    searched_ids: ClassVar[Sequence[str]] = ("pk", "request_id")
    list_display = (when_column("rated_at", "rated at"), tenant_column, "rater", "value_", "comment_", request_column)
    list_filter = ("tenant",)
    list_select_related = ("tenant",)
    fields = (
        "id", request_column, "tenant", "rater", "value_", "comment", when_column("rated_at", "rated at"),
    )  # fmt: skip

    @admin.display(description="rating, 0-1")
    def value_(self, row: Feedback) -> str:
        return quality(row.value)

    @admin.display(description="comment")
    def comment_(self, row: Feedback) -> SafeString | str:
        return with_detail("", row.comment) if row.comment else NOTHING


@admin.register(JudgeSample)
class JudgeSampleAdmin(ReadOnlyAdmin):
    """Answers on their way to the judge; what they say stays encrypted."""

    list_display = (request_column, tenant_column, "tries", when_column("due_at", "due at"))
    list_filter = ("tries", "tenant")
    list_select_related = ("tenant",)
    fields = (request_column, "tenant", "tries", when_column("due_at", "due at"))
