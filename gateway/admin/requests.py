"""The request log: what was asked, and the story of each request."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from gateway.admin_columns import (
    NOTHING,
    badge,
    duration,
    exact_usd,
    list_link,
    pair,
    when,
    when_column,
    with_detail,
    words,
)
from gateway.admin_pages import PartitionedAdmin
from gateway.models import RequestContent, RequestLog
from gateway.operations import FAILED, REFUSED, story
from gateway.rows import moment_of
from routing.overview import explained
from tenants.crypto import DecryptionFailed


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("answered", "answered"),
            ("failed", "failed"),
            ("refused", "refused by a budget or limit"),
            ("left", "caller hung up"),
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "answered":
                return queryset.filter(status__lt=400)
            case "failed":
                return queryset.filter(FAILED)
            case "refused":
                return queryset.filter(REFUSED)
            case "left":
                return queryset.filter(status=499)
        return queryset


@admin.register(RequestLog)
class RequestLogAdmin(PartitionedAdmin):
    list_display = (
        when_column("started_at", "asked at"), "who", "asked_for", "answered_by", "outcome", "tokens", "cost",
        "latency",
    )  # fmt: skip
    list_filter = (OutcomeFilter, "fallback_used", "streamed", "dialect", "tenant")
    list_select_related = ("tenant", "project", "token")
    change_form_template = "admin/gateway/requestlog/change_form.html"
    fields = (
        "id", when_column("started_at", "asked at"), "tenant", "project", "token", "dialect", "streamed",
        "requested_model", "answered_by", "outcome", "finish_reason", "tokens", "cost", "latency", "overhead",
        "end_user", "tag_words", "client_ip", "rows",
    )  # fmt: skip

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Other pages link to the requests of one project, token or model."""
        linked = ("project__id__exact", "token__id__exact", "model_name")
        return lookup in linked or super().lookup_allowed(lookup, value, request)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        asked = self.get_object(request, object_id)
        shown = {"attempts": list(story(asked)), "why": explained(asked.pk)} if asked else {}
        return super().change_view(request, object_id, form_url, {**shown, **(extra_context or {})})

    @admin.display(description="who")
    def who(self, row: RequestLog) -> SafeString | str:
        return with_detail(row.tenant.slug, f"{row.project} / {row.token}")

    @admin.display(description="asked for")
    def asked_for(self, row: RequestLog) -> SafeString | str:
        return with_detail(row.requested_model, "streamed" if row.streamed else "")

    @admin.display(description="answered by")
    def answered_by(self, row: RequestLog) -> SafeString | str:
        return with_detail(row.model_name, row.provider_name) if row.model_name else NOTHING

    @admin.display(description="outcome")
    def outcome(self, row: RequestLog) -> SafeString | str:
        tone = "good" if row.status < 400 else "quiet" if row.status == 499 else "bad"
        detail = " · ".join(filter(None, [row.error_code, "by fallback" if row.fallback_used else ""]))
        return with_detail(badge(str(row.status), tone), detail)

    @admin.display(description="tokens in / out")
    def tokens(self, row: RequestLog) -> SafeString:
        return pair(row.input_tokens, row.output_tokens)

    @admin.display(description="cost, USD")
    def cost(self, row: RequestLog) -> SafeString:
        return exact_usd(row.cost_usd)

    @admin.display(description="latency")
    def latency(self, row: RequestLog) -> SafeString | str:
        first = f"first token {duration(row.first_token_ms)}" if row.first_token_ms is not None else ""
        return with_detail(duration(row.latency_ms), first)

    @admin.display(description="our own part")
    def overhead(self, row: RequestLog) -> str:
        return duration(row.overhead_ms)

    @admin.display(description="tags")
    def tag_words(self, row: RequestLog) -> SafeString | str:
        return words(row.tags)

    @admin.display(description="see also")
    def rows(self, row: RequestLog) -> SafeString:
        return list_link("billing_attempt", "ledger lines", request_id=row.pk)


@admin.register(RequestContent)
class RequestContentAdmin(PartitionedAdmin):
    """That content is kept; what it says is shown on request only, and that is in the tenant's audit trail."""

    list_display = ("request_id", "tenant", "kept_at", "master_key_number")
    list_filter = ("tenant",)
    list_select_related = ("tenant",)
    fields = ("request", "tenant", "kept_at", "master_key_number")
    actions = ("show",)
    object_actions = ("show",)
    careful_actions = ("show",)

    @admin.action(description="Show")
    def show(self, request: HttpRequest, queryset: QuerySet[RequestContent]) -> HttpResponse | None:
        row = queryset[0]
        try:
            content = row.reveal(self.admin_site.actor(request))
        except DecryptionFailed as exc:
            self.message_user(request, f"The content cannot be read: {exc}.", messages.ERROR)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Content of a request",
            "row": row,
            "content": content,
        }
        return TemplateResponse(request, "admin/gateway/requestcontent/content.html", context)

    @admin.display(description="request")
    def request(self, row: RequestContent) -> SafeString | str:
        return list_link("gateway_requestlog", str(row.pk), q=row.pk)

    @admin.display(description="kept since")
    def kept_at(self, row: RequestContent) -> SafeString | str:
        return when(moment_of(row.pk))
