"""How tenants want their requests routed, with the page of each tenant's router."""

from decimal import Decimal
from typing import Any, Final

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from gateway.admin_columns import NOTHING, badge, links, list_link, percent, plain_decimal, with_detail, words
from gateway.admin_forms import OwnedForm
from routing.admin.pages import (
    JsonListField,
    RoutingAdmin,
    models_of,
    quality,
    refuse_unknown,
    router_link,
    tenant_column,
    tenant_of,
)
from routing.models import PublishedScore, RoutingSettings, StrategyChoice
from routing.overview import overview_of
from routing.rules import llm, model_names
from routing.rules.patterns import matches
from tenants.models import Tenant

_LABELS: Final = {
    "usd_per_1000_requests": "USD per 1,000 requests",
    "judge_usd_per_day": "USD a day",
    "judge_rate": "Share judged",
    "judge_model": "Judge",
    "shadow": "In the background",
    "reads_shared": "Reads",
    "feeds_shared": "Feeds",
    "auto_ab": "A/B tests",
    "auto_migrate": "Migration to cheaper models",
    "replay_usd_per_week": "Replay, USD a week",
}


class RoutingSettingsForm(OwnedForm):
    rules = JsonListField(
        required=False, help_text='Filters and scores in order: [{"rule": "cheapest", "keep": 4}]. Checked when saved.'
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, label in _LABELS.items():
            if name in self.fields:
                self.fields[name].label = label
        for name in ("quality_floor", "usd_per_1000_requests"):
            if name in self.fields:
                self.fields[name].help_text = f"{self.fields[name].help_text} Of the engine hier only."
        if "engine" in self.fields:  # by the names that files and pages call them
            engines = [(name, f"{name}: {label}") for name, label in RoutingSettings.Engine.choices]
            self.fields["engine"].choices = engines  # type: ignore[attr-defined]
        if "usd_per_1000_requests" in self.fields:
            self.fields["usd_per_1000_requests"].error_messages["min_value"] = "This must be more than 0."
        for name in ("judge_usd_per_day", "replay_usd_per_week"):
            if isinstance(amount := self.initial.get(name), Decimal):
                self.initial[name] = Decimal(plain_decimal(amount))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        tenant = tenant_of(self)
        refuse_unknown(self, "judge_model", tenant, [cleaned.get("judge_model", "")])
        asked = [rule.get("model", "") for rule in cleaned.get("rules") or () if _names(rule, llm.NAME)]
        refuse_unknown(self, "rules", tenant, [name for name in asked if isinstance(name, str)])
        return cleaned


def _names(rule: Any, name: str) -> bool:
    """Whether it is a rule of this name; what is none is refused elsewhere."""
    return isinstance(rule, dict) and rule.get("rule") == name


@admin.register(RoutingSettings)
class RoutingSettingsAdmin(RoutingAdmin):
    noun = "routing"
    form = RoutingSettingsForm
    list_display = (tenant_column, "router", "engine_", "judging", "by_itself", "sharing", "rule_words")
    list_filter = ("engine", "strategy", "auto_ab", "auto_migrate")
    list_select_related = ("tenant",)
    search_fields = ("tenant__slug",)
    ordering = ("tenant__slug",)
    autocomplete_fields = ("tenant",)
    readonly_fields = ("rows",)
    fieldsets = (
        (None, {"fields": ("tenant", "rows", "engine", "strategy", "rules")}),
        ("Aims", {"fields": ("quality_floor", "usd_per_1000_requests")}),
        ("Judging", {"fields": ("judge_usd_per_day", "judge_rate", "judge_model", "shadow")}),
        ("Shared pool", {"fields": ("reads_shared", "feeds_shared")}),
        ("By itself", {"fields": ("auto_ab", "auto_migrate", "replay_usd_per_week")}),
        (
            "Moving averages",
            {
                "fields": (("ema_alpha", "ema_epsilon", "ema_least_samples"),),
                "description": "Of the engine ema only.",
            },
        ),
    )

    def save_model(self, request: HttpRequest, obj: RoutingSettings, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        rules = [(place, rule) for place, rule in enumerate(obj.rules, 1) if _names(rule, model_names.NAME)]
        models = models_of(obj.tenant).values_list("name", "provider__name") if rules else ()
        known = [(name, f"{provider}/{name}") for name, provider in models]
        for place, rule in rules:
            for pattern in (*rule.get("allow", ()), *rule.get("deny", ())):
                if not any(matches(pattern, name) for names in known for name in names):
                    told = f"Rule {place} (models): no model is called {pattern}."
                    self.message_user(request, told, messages.WARNING)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.router_view)
        return [path("router/<uuid:tenant_id>/", view, name="routing_router"), *super().get_urls()]

    def router_view(self, request: HttpRequest, tenant_id: Any) -> HttpResponse:
        """What one tenant's router believes and does."""
        tenant = get_object_or_404(Tenant, pk=tenant_id)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Router of {tenant}",
            "opts": self.opts,
            "router": overview_of(tenant),
        }
        return TemplateResponse(request, "admin/routing/router.html", context)

    @admin.display(description="router")
    def router(self, row: RoutingSettings) -> SafeString:
        return router_link(row.tenant)

    @admin.display(description="see also")
    def rows(self, row: RoutingSettings) -> SafeString | str:
        if row._state.adding:
            return NOTHING
        lists = (
            ("routing_decision", "decisions"), ("routing_label", "labels"), ("routing_experiment", "experiments"),
            ("routing_ramp", "ramps"), ("routing_strategychoice", "strategies of projects and tokens"),
        )  # fmt: skip
        found = [list_link(model, text, tenant__id__exact=row.tenant_id) for model, text in lists]
        return links([router_link(row.tenant, "its router"), *found])

    @admin.display(description="engine", ordering="engine")
    def engine_(self, row: RoutingSettings) -> SafeString | str:
        return with_detail(row.engine, row.strategy)

    @admin.display(description="judged")
    def judging(self, row: RoutingSettings) -> SafeString | str:
        if not row.judge_usd_per_day:
            return badge("never", "quiet")
        detail = "in the background" if row.shadow else "explored in what is served"
        return with_detail(f"{percent(row.judge_rate)}, ${plain_decimal(row.judge_usd_per_day)} a day", detail)

    @admin.display(description="by itself")
    def by_itself(self, row: RoutingSettings) -> SafeString | str:
        on = {"A/B tests": row.auto_ab, "migration": row.auto_migrate, "replay": row.replay_usd_per_week > 0}
        return words(name for name, is_on in on.items() if is_on)

    @admin.display(description="shared pool")
    def sharing(self, row: RoutingSettings) -> SafeString | str:
        return words(name for name, is_on in (("reads", row.reads_shared), ("feeds", row.feeds_shared)) if is_on)

    @admin.display(description="rules")
    def rule_words(self, row: RoutingSettings) -> SafeString | str:
        return words(rule["rule"] for rule in row.rules)


@admin.register(StrategyChoice)
class StrategyChoiceAdmin(RoutingAdmin):
    noun = "strategy"
    form = OwnedForm
    list_display = ("holds_for", tenant_column, "strategy")
    list_filter = ("strategy", "tenant")
    list_select_related = ("tenant", "project", "token__project")
    search_fields = ("project__slug", "token__name", "tenant__slug")
    autocomplete_fields = ("tenant", "project", "token")
    fields = ("tenant", "project", "token", "strategy")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("tenant", "project", "token") if obj else ()

    @admin.display(description="holds for")
    def holds_for(self, row: StrategyChoice) -> SafeString | str:
        if row.token:
            return with_detail(str(row.token), f"a token of {row.token.project}")
        return with_detail(str(row.project), "a project")


@admin.register(PublishedScore)
class PublishedScoreAdmin(RoutingAdmin):
    noun = "published_score"
    form = OwnedForm
    list_display = ("vendor_model_pattern", tenant_column, "quality_", "source")
    list_filter = ("tenant",)
    list_select_related = ("tenant",)
    search_fields = ("vendor_model_pattern", "source", "tenant__slug")
    autocomplete_fields = ("tenant",)
    fields = ("tenant", "vendor_model_pattern", "quality", "source")

    @admin.display(description="quality, 0-1", ordering="quality")
    def quality_(self, row: PublishedScore) -> str:
        return quality(row.quality)
