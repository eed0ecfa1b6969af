"""What routers believe, and how that moved from day to day."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from gateway.admin_columns import NOTHING, badge, count, exact_usd, percent, when_column, words
from gateway.admin_pages import ReadOnlyAdmin
from routing.admin.pages import quality, router_link, tenant_column
from routing.models import RouterState, WeightSnapshot


@admin.register(RouterState)
class RouterStateAdmin(ReadOnlyAdmin):
    list_display = (
        tenant_column, "router", "engine", "learned", "probability", "cost_weight",
        when_column("updated_at", "changed at"),
    )  # fmt: skip
    list_filter = ("engine", "tenant")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "engine")
    fields = (
        "tenant", "router", "engine", "learned", "position", "version", "probability", "cost_weight", "observed_id",
        when_column("updated_at", "changed at"),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the state itself, which has hundreds of kilobytes."""
        return super().get_queryset(request).defer("state")

    @admin.display(description="what it believes")
    def router(self, row: RouterState) -> SafeString:
        return router_link(row.tenant)

    @admin.display(description="labels learned", ordering="labels")
    def learned(self, row: RouterState) -> str:
        return count(row.labels)

    @admin.display(description="judged")
    def probability(self, row: RouterState) -> SafeString | str:
        return percent(row.judge_probability) if row.judge_probability else badge("nothing", "quiet")


@admin.register(WeightSnapshot)
class WeightSnapshotAdmin(ReadOnlyAdmin):
    list_display = ("day", tenant_column, "engine", "labels", "requests", "cost", "best")
    list_filter = ("engine", "tenant")
    list_select_related = ("tenant",)
    date_hierarchy = "day"
    fields = ("day", "tenant", "engine", "labels", "requests", "cost", "believed")

    @admin.display(description="cost, USD", ordering="cost_usd")
    def cost(self, row: WeightSnapshot) -> SafeString:
        return exact_usd(row.cost_usd)

    @admin.display(description="best")
    def best(self, row: WeightSnapshot) -> str:
        known = {model: facts["mean"] for model, facts in row.by_model.items() if facts.get("mean") is not None}
        return max(known, key=known.__getitem__) if known else NOTHING

    @admin.display(description="believed of each model")
    def believed(self, row: WeightSnapshot) -> SafeString | str:
        return words(f"{model}: {quality(facts.get('mean'))}" for model, facts in row.by_model.items())
