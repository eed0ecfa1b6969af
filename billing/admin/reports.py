"""What each tenant used by the day, and what of it Stripe was told."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from audit.record import Actor
from billing import meter_events
from billing.models import MeterEvent, UsageReport
from gateway.admin_columns import NOTHING, badge, count, exact_usd, when_column, with_detail
from gateway.admin_pages import ReadOnly, ReadOnlyAdmin

_TONES = {"due": "quiet", "sending": "warn", "sent": "good", "unclear": "bad"}


@admin.register(UsageReport)
class UsageReportAdmin(ReadOnlyAdmin):
    list_display = ("day", "tenant", "requests_", "tokens_", "spend", "month", "beyond", "state")
    list_filter = ("tenant", ("closed_at", admin.EmptyFieldListFilter))
    list_select_related = ("tenant",)
    date_hierarchy = "day"
    fields = (
        "tenant", "day", "state", "requests", "tokens", "spend_usd", "unpriced", "month_requests", "month_tokens",
        "month_spend_usd", "included_requests", "included_tokens", "overage_requests", "overage_tokens",
        "stripe_customer", "meter_value", "closed_at", "revised_at", "updated_at",
    )  # fmt: skip

    @admin.display(description="requests", ordering="requests")
    def requests_(self, report: UsageReport) -> str:
        return count(report.requests)

    @admin.display(description="tokens", ordering="tokens")
    def tokens_(self, report: UsageReport) -> str:
        return count(report.tokens)

    @admin.display(description="spend, USD", ordering="spend_usd")
    def spend(self, report: UsageReport) -> SafeString:
        return exact_usd(report.spend_usd)

    @admin.display(description="month so far, USD", ordering="month_spend_usd")
    def month(self, report: UsageReport) -> SafeString | str:
        return with_detail(exact_usd(report.month_spend_usd), f"{count(report.month_requests)} requests")

    @admin.display(description="beyond the plan")
    def beyond(self, report: UsageReport) -> str:
        parts = ((report.overage_requests, "requests"), (report.overage_tokens, "tokens"))
        return ", ".join(f"{count(number)} {name}" for number, name in parts if number) or NOTHING

    @admin.display(description="state", ordering="closed_at")
    def state(self, report: UsageReport) -> SafeString | str:
        if report.closed_at is None:
            return badge("open", "quiet")
        return with_detail(badge("closed", "good"), "changed since" if report.revised_at else "")


@admin.register(MeterEvent)
class MeterEventAdmin(ReadOnly, AuditedAdmin):
    """Nobody changes what Stripe was told; of what is unclear an operator says whether Stripe has it."""

    list_display = ("day", "tenant", "stripe_customer", "what", "state_", "tries", when_column("sent_at", "sent at"))
    list_filter = ("state", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("stripe_customer",)
    date_hierarchy = "day"
    actions = ("confirm", "repeat")
    object_actions = ("confirm", "repeat")
    careful_actions = ("confirm", "repeat")
    fields = (
        "tenant", "stripe_customer", "identifier", "what", "day", "revision", "meter", "state_", "tries",
        "in_doubt_since", "sent_at", "error",
    )  # fmt: skip

    def offers(self, action: str, obj: Any) -> bool:
        return bool(obj.state == MeterEvent.State.UNCLEAR)

    @admin.action(description="It is at Stripe")
    def confirm(self, request: HttpRequest, queryset: QuerySet[MeterEvent]) -> None:
        self._decide(request, queryset, meter_events.confirm, "counted as sent")

    @admin.action(description="It is not at Stripe: send it again")
    def repeat(self, request: HttpRequest, queryset: QuerySet[MeterEvent]) -> None:
        self._decide(request, queryset, meter_events.repeat, "sent with the next run")

    def _decide(
        self,
        request: HttpRequest,
        queryset: QuerySet[MeterEvent],
        decide: Callable[[MeterEvent, Actor], bool],
        outcome: str,
    ) -> None:
        decided = sum(decide(event, self.actor(request)) for event in queryset.select_related("tenant"))
        self.message_user(request, f"{decided} {outcome}.", messages.SUCCESS if decided else messages.WARNING)

    @admin.display(description="value")
    def what(self, event: MeterEvent) -> SafeString | str:
        return with_detail(count(event.value), event.get_meter_value_display())

    @admin.display(description="state", ordering="state")
    def state_(self, event: MeterEvent) -> SafeString | str:
        return with_detail(badge(event.get_state_display(), _TONES[event.state]), event.error)
