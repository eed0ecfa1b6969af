"""What was banked, how it was answered again later, and which models are watched for change."""

from typing import Any

from django.contrib import admin
from django.utils.safestring import SafeString

from gateway.admin_columns import NOTHING, badge, count, duration, exact_usd, object_link, when_column, with_detail
from gateway.admin_pages import ReadOnlyAdmin
from routing.admin.pages import cell_column, filter_by, quality, request_column, tenant_column
from routing.features import COMPLEXITIES, TASKS
from routing.models import BankedConversation, DriftWatch, ReplayVerdict


@admin.register(BankedConversation)
class BankedConversationAdmin(ReadOnlyAdmin):
    """That a conversation is banked; what it says stays encrypted."""

    list_display = (
        when_column("banked_at", "banked at"), tenant_column, cell_column, "model_name", "score_", "state",
        request_column,
    )  # fmt: skip
    list_filter = (filter_by("task", TASKS), filter_by("complexity", COMPLEXITIES), "tenant")
    list_select_related = ("tenant",)
    search_fields = ("=request_id", "model_name")
    fields = (
        "id", request_column, "tenant", cell_column, "model_name", "score_", when_column("banked_at", "banked at"),
        when_column("retired_at", "retired at"),
    )  # fmt: skip

    @admin.display(description="score, 0-1", ordering="score")
    def score_(self, row: BankedConversation) -> str:
        return quality(row.score)

    @admin.display(description="status", ordering="retired_at")
    def state(self, row: BankedConversation) -> SafeString:
        return badge("replayed", "good") if row.retired_at is None else badge("retired", "quiet")


@admin.register(ReplayVerdict)
class ReplayVerdictAdmin(ReadOnlyAdmin):
    list_display = (
        "week",
        tenant_column,
        "model_name",
        "part",
        "verdict",
        "tokens",
        "latency",
        "cost",
        "conversation_",
    )
    list_filter = ("control", "refused", "tenant")
    date_hierarchy = "week"
    list_select_related = ("tenant", "conversation")
    search_fields = ("model_name",)
    fields = (
        "week", "tenant", "conversation_", "model_name", "part", "verdict", "tokens", "valid_json", "latency", "cost",
        when_column("created_at", "made at"),
    )  # fmt: skip

    @admin.display(description="as", ordering="control")
    def part(self, row: ReplayVerdict) -> str:
        return "control" if row.control else "tested"

    @admin.display(description="rating, 0-1", ordering="value")
    def verdict(self, row: ReplayVerdict) -> SafeString | str:
        return with_detail(quality(row.value) or badge("no answer", "warn"), "refused" if row.refused else "")

    @admin.display(description="tokens out", ordering="output_tokens")
    def tokens(self, row: ReplayVerdict) -> str:
        return count(row.output_tokens)

    @admin.display(description="latency", ordering="latency_ms")
    def latency(self, row: ReplayVerdict) -> str:
        return duration(row.latency_ms)

    @admin.display(description="cost, USD", ordering="cost_usd")
    def cost(self, row: ReplayVerdict) -> SafeString:
        return exact_usd(row.cost_usd)

    @admin.display(description="conversation")
    def conversation_(self, row: ReplayVerdict) -> SafeString | str:
        return object_link(row.conversation)


@admin.register(DriftWatch)
class DriftWatchAdmin(ReadOnlyAdmin):
    list_display = (
        "watched",
        tenant_column,
        "alarm",
        "last_week",
        when_column("alarmed_at", "alarmed at"),
        "reason",
    )
    list_filter = (("alarmed_at", admin.EmptyFieldListFilter), "tenant")
    list_select_related = ("tenant",)
    search_fields = ("model_name", "tenant__slug")
    fields = (
        "tenant",
        "watched",
        "alarm",
        "reason",
        when_column("alarmed_at", "alarmed at"),
        "last_week",
        "figures",
    )

    @admin.display(description="watched", ordering="model_name")
    def watched(self, row: DriftWatch) -> str:
        return row.model_name or "the control"

    @admin.display(description="state", ordering="alarmed_at")
    def alarm(self, row: DriftWatch) -> SafeString:
        if row.alarmed_at:
            return badge("answers differently", "bad")
        return badge("as ever", "good") if row.last_week else badge("not replayed yet", "quiet")

    @admin.display(description="evidence so far")
    def figures(self, row: DriftWatch) -> str:
        return ", ".join(f"{name}: {_short(value)}" for name, value in row.state.items()) or NOTHING


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
