"""The ledger and the processes that write it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from billing.models import TOKEN_PRICES, Adjustment, Attempt, BudgetPeriod, GatewayProcess, Settlement
from gateway.admin_columns import (
    NOTHING,
    badge,
    duration,
    exact_usd,
    links,
    list_link,
    object_link,
    pair,
    when_column,
    with_detail,
    words,
)
from gateway.admin_pages import OwnedFilter, PartitionedAdmin, ReadOnlyAdmin, ReadOnlyInline

OPEN = "open"
_TONES = {"settled": "good", "failed": "bad", "cancelled": "quiet", "abandoned": "warn"}
_OUTPUT_CLASSES = ("output", "reasoning", "audio_output")


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(OPEN, OPEN), *((str(value), str(value)) for value in Settlement.Outcome.values)]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == OPEN:
            return queryset.filter(settlement__isnull=True)
        return queryset.filter(settlement__outcome=self.value()) if self.value() else queryset


class EstimatedFilter(admin.SimpleListFilter):
    title = "usage"
    parameter_name = "usage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("vendor", "told by the vendor"), ("estimated", "estimated"), ("unpriced", "unpriced")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case "vendor":
                return queryset.filter(settlement__usage_source=Settlement.UsageSource.VENDOR)
            case "estimated":
                return queryset.filter(settlement__isnull=False).exclude(
                    settlement__usage_source=Settlement.UsageSource.VENDOR
                )
            case "unpriced":
                return queryset.filter(settlement__isnull=False, settlement__cost_usd=None)
        return queryset


class SettlementInline(ReadOnlyInline):
    model = Settlement
    fields = (
        "outcome",
        "cost",
        "usage_source",
        "service_tier",
        "status_code",
        "error_code",
        "first_token_at",
        "ended_at",
        "settled_at",
    )
    readonly_fields = ("cost",)

    @admin.display(description="cost, USD")
    def cost(self, settlement: Settlement) -> SafeString:
        return exact_usd(settlement.cost_usd)


class AdjustmentInline(ReadOnlyInline):
    model = Adjustment
    fields = ("created_at", "reason", "amount", "note")
    readonly_fields = ("amount",)

    @admin.display(description="amount, USD")
    def amount(self, adjustment: Adjustment) -> SafeString:
        return exact_usd(adjustment.amount_usd)


@admin.register(Attempt)
class AttemptAdmin(PartitionedAdmin):
    """The ledger: one line for each call to a vendor, with how it ended."""

    list_display = (
        when_column("started_at", "started at"), "who", "target", "purpose_", "state", "tokens_", "cost", "took",
        "request_",
    )  # fmt: skip
    list_filter = (StateFilter, EstimatedFilter, "purpose", "tenant", ("provider", OwnedFilter))
    list_select_related = ("tenant", "project", "token", "model", "provider", "settlement")
    searched_ids = ("pk", "request_id")
    fieldsets = (
        (
            None,
            {"fields": ("id", "request_", when_column("started_at", "started at"), "state", "cost", "usage", "took")},
        ),
        ("Tokens", {"fields": ("token_classes",)}),
        ("Who", {"fields": ("tenant", "project", "token", "end_user", "tag_words")}),
        ("What", {"fields": ("purpose", "model", "vendor_model", "provider", "provider_key")}),
        ("Money", {"fields": ("price_version", "held", "held_others", "budgets", "process_id")}),
    )
    inlines = (SettlementInline, AdjustmentInline)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Other pages link to the lines of one project, token, model or request."""
        linked = ("project__id__exact", "token__id__exact", "model__id__exact", "request_id")
        return lookup in linked or super().lookup_allowed(lookup, value, request)

    @admin.display(description="who")
    def who(self, attempt: Attempt) -> SafeString | str:
        if attempt.project is None:
            return attempt.tenant.slug if attempt.tenant else "the installation"
        return with_detail(attempt.tenant.slug, f"{attempt.project} / {attempt.token or NOTHING}")

    @admin.display(description="target")
    def target(self, attempt: Attempt) -> SafeString | str:
        name = attempt.model.name if attempt.model else attempt.vendor_model
        return with_detail(name, f"{attempt.provider}: {attempt.vendor_model}")

    @admin.display(description="state")
    def state(self, attempt: Attempt) -> SafeString | str:
        ended = _settlement(attempt)
        return outcome_badge(ended) if ended else badge(OPEN, "warn")

    @admin.display(description="purpose")
    def purpose_(self, attempt: Attempt) -> str:
        return attempt.purpose

    @admin.display(description="tokens in / out")
    def tokens_(self, attempt: Attempt) -> SafeString | str:
        ended = _settlement(attempt)
        return total_tokens(ended) if ended else NOTHING

    @admin.display(description="tokens by class")
    def token_classes(self, attempt: Attempt) -> SafeString | str:
        ended = _settlement(attempt)
        return words(token_classes(ended)) if ended else NOTHING

    @admin.display(description="cost, USD")
    def cost(self, attempt: Attempt) -> SafeString | str:
        ended = _settlement(attempt)
        return exact_usd(ended.cost_usd) if ended else NOTHING

    @admin.display(description="usage")
    def usage(self, attempt: Attempt) -> SafeString | str:
        ended = _settlement(attempt)
        return usage_badge(ended) if ended else NOTHING

    @admin.display(description="took")
    def took(self, attempt: Attempt) -> str:
        ended = _settlement(attempt)
        return duration((ended.ended_at - attempt.started_at) / timedelta(milliseconds=1)) if ended else NOTHING

    @admin.display(description="request")
    def request_(self, attempt: Attempt) -> SafeString:
        return list_link("gateway_requestlog", "request", q=attempt.request_id)

    @admin.display(description="tags")
    def tag_words(self, attempt: Attempt) -> SafeString | str:
        return words(str(tag) for tag in attempt.tags)

    @admin.display(description="held, USD")
    def held(self, attempt: Attempt) -> SafeString | str:
        return exact_usd(attempt.held_usd) if attempt.held_usd is not None else NOTHING

    @admin.display(description="held, tokens / requests")
    def held_others(self, attempt: Attempt) -> SafeString:
        return pair(attempt.held_tokens or 0, attempt.held_requests)

    @admin.display(description="budgets")
    def budgets(self, attempt: Attempt) -> SafeString | str:
        periods = BudgetPeriod.objects.filter(pk__in=attempt.budget_periods).select_related("budget")
        return links(object_link(period.budget, str(period)) for period in periods) or NOTHING


@admin.register(Settlement)
class SettlementAdmin(PartitionedAdmin):
    list_display = (
        when_column("settled_at", "settled at"),
        "tenant",
        "line",
        "state",
        "tokens",
        "cost",
        "usage",
        "status_code",
    )
    list_filter = ("outcome", "usage_source", "tenant")
    list_select_related = ("tenant", "attempt")
    fields = (
        "line", "tenant", "state", "status_code", "classes", "usage", "cost", "price_version", "saved",
        "first_token_at", "ended_at", "settled_at",
    )  # fmt: skip

    @admin.display(description="ledger line")
    def line(self, settlement: Settlement) -> SafeString | str:
        return object_link(settlement.attempt)

    @admin.display(description="state")
    def state(self, settlement: Settlement) -> SafeString | str:
        return outcome_badge(settlement)

    @admin.display(description="tokens in / out")
    def tokens(self, settlement: Settlement) -> SafeString | str:
        return total_tokens(settlement)

    @admin.display(description="tokens by class")
    def classes(self, settlement: Settlement) -> SafeString | str:
        return words(token_classes(settlement))

    @admin.display(description="cost, USD")
    def cost(self, settlement: Settlement) -> SafeString:
        return exact_usd(settlement.cost_usd)

    @admin.display(description="saved, USD")
    def saved(self, settlement: Settlement) -> SafeString:
        return exact_usd(settlement.saved_usd)

    @admin.display(description="usage")
    def usage(self, settlement: Settlement) -> SafeString:
        return usage_badge(settlement)


@admin.register(Adjustment)
class AdjustmentAdmin(PartitionedAdmin):
    list_display = (when_column("created_at", "made at"), "tenant", "reason", "amount", "line", "note")
    list_filter = ("reason", "tenant")
    list_select_related = ("tenant", "attempt")
    searched_ids = ("pk", "attempt")
    fields = ("id", "created_at", "tenant", "line", "reason", "amount", "price_version", "note")

    @admin.display(description="amount, USD")
    def amount(self, adjustment: Adjustment) -> SafeString:
        return exact_usd(adjustment.amount_usd)

    @admin.display(description="ledger line")
    def line(self, adjustment: Adjustment) -> SafeString | str:
        return object_link(adjustment.attempt)


@admin.register(GatewayProcess)
class GatewayProcessAdmin(ReadOnlyAdmin):
    """Processes that open ledger lines; one whose heartbeat has stopped no longer closes them."""

    list_display = (
        "label",
        "state",
        when_column("started_at", "started"),
        when_column("heartbeat_at", "last heartbeat"),
    )
    search_fields = ("label",)
    fields = ("id", "label", "state", "started_at", "heartbeat_at")

    @admin.display(description="status", ordering="heartbeat_at")
    def state(self, process: GatewayProcess) -> SafeString:
        lost = datetime.now(UTC) - process.heartbeat_at > GatewayProcess.LOST_AFTER
        return badge("no heartbeat", "bad") if lost else badge("alive", "good")


def outcome_badge(settlement: Settlement) -> SafeString | str:
    word = badge(settlement.outcome, _TONES[settlement.outcome])  # type: ignore[arg-type]
    return with_detail(word, settlement.error_code)


def usage_badge(settlement: Settlement) -> SafeString:
    exact = settlement.usage_source == Settlement.UsageSource.VENDOR
    return badge(settlement.usage_source, "quiet" if exact else "warn")


def total_tokens(settlement: Settlement) -> SafeString | str:
    """In and out, all classes together, marked where the vendor did not tell."""
    told = settlement.usage_source == Settlement.UsageSource.VENDOR
    counts = {name: getattr(settlement, f"{name}_tokens") for name in TOKEN_PRICES}
    out = sum(counts.pop(name) for name in _OUTPUT_CLASSES)
    return with_detail(pair(sum(counts.values()), out), "" if told else settlement.usage_source)


def token_classes(settlement: Settlement) -> list[str]:
    """The disjoint classes that are not empty, each with its count."""
    counts = {name: getattr(settlement, f"{name}_tokens") for name in TOKEN_PRICES}
    return [f"{name.replace('_', ' ')} {number:,}" for name, number in counts.items() if number]


def _settlement(attempt: Attempt) -> Settlement | None:
    return getattr(attempt, "settlement", None)
