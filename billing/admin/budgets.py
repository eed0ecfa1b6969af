"""Budgets with their periods, and rate limits."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import BaseInlineFormSet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from billing.admin.use import BudgetUse, amount, every, use_bar, use_of, window_of
from billing.models import Budget, BudgetPeriod, RateLimit
from gateway.admin_columns import NOTHING, badge, count, its_rows, plain_decimal, when, when_column, with_detail
from gateway.admin_forms import OwnedForm
from gateway.admin_pages import ReadOnlyInline

MOST_PERIODS_SHOWN = 20


class BudgetForm(OwnedForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "cap" in self.fields and isinstance(cap := self.initial.get("cap"), Decimal):
            self.initial["cap"] = Decimal(plain_decimal(cap))


class RecentPeriods(BaseInlineFormSet):  # type: ignore[type-arg]
    """The newest only: one budget of each end user's own has thousands."""

    def get_queryset(self) -> Any:
        return super().get_queryset()[:MOST_PERIODS_SHOWN]


class PeriodInline(ReadOnlyInline):
    model = BudgetPeriod
    formset = RecentPeriods
    fields = (
        when_column("starts_at", "from"), when_column("ends_at", "to"), "subject", "spent_", "held_", "used", "told",
    )  # fmt: skip
    verbose_name_plural = f"newest periods (at most {MOST_PERIODS_SHOWN})"
    show_change_link = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[BudgetPeriod]:
        return super().get_queryset(request).select_related("budget")

    @admin.display(description="spent")
    def spent_(self, period: BudgetPeriod) -> str:
        return amount(period.spent, period.budget.metric)

    @admin.display(description="held")
    def held_(self, period: BudgetPeriod) -> str:
        return amount(period.held, period.budget.metric)

    @admin.display(description="used")
    def used(self, period: BudgetPeriod) -> SafeString | str:
        return use_bar(period.spent, period.held, period.budget.cap)

    @admin.display(description="told at")
    def told(self, period: BudgetPeriod) -> str:
        return f"{period.alerted} %" if period.alerted else NOTHING


class ScopedAdmin(AuditedAdmin):
    """Of what holds for a part of the traffic. Which part that is does not change once it is there."""

    form = OwnedForm
    autocomplete_fields = ("tenant", "project", "token")
    counted_by: tuple[str, ...] = ("tenant", "scope", "project", "token", "subject")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, *self.counted_by) if obj else self.readonly_fields

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, row: Any) -> str:
        return row.tenant.slug if row.tenant else "the installation"

    @admin.display(description="holds for", ordering="scope")
    def holds_for(self, row: Any) -> SafeString | str:
        whose = f"{row.token.project} / {row.token}" if row.token else row.whose
        return with_detail(row.get_scope_display(), "each by itself" if whose == "*" else whose)


@admin.register(Budget)
class BudgetAdmin(ScopedAdmin):
    form = BudgetForm
    list_display = ("name", "tenant_", "holds_for", "limit", "period_", "strictness", "used", "resets", "state")
    list_filter = ("enabled", "hard", "is_quota", "metric", "scope", "tenant")
    list_select_related = ("tenant", "project", "token__project")
    search_fields = ("name", "subject", "project__slug", "token__name", "tenant__slug")
    fieldsets = (
        (None, {"fields": ("tenant", "name", "enabled", "rows")}),
        ("Holds for", {"fields": ("scope", "project", "token", "subject")}),
        ("Limit", {"fields": ("metric", "cap", "period", "rolling_s", "hard", "thresholds")}),
    )
    now_fieldset = ("Now", {"fields": ("used", "spent_and_held", "resets", "from_plan")})
    readonly_fields = ("rows", "used", "spent_and_held", "resets", "from_plan")
    counted_by = Budget.COUNTED_BY
    inlines = (PeriodInline,)
    actions = ("enable", "disable")
    object_actions = ("enable", "disable")
    careful_actions = ("disable",)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return (self.fieldsets[0], self.now_fieldset, *self.fieldsets[1:]) if obj else self.fieldsets

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else ()

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        _add_use(list(changelist.result_list))
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        budget = super().get_object(request, object_id, from_field)
        if budget is not None:
            _add_use([budget])
        return budget

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What a plan includes is changed with the plan, or in the subscription."""
        return obj is None or not obj.is_quota

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One that was ever counted is switched off, so that what was spent can still be looked up."""
        return obj is not None and not obj.is_quota and not obj.periods.exists()

    def offers(self, action: str, obj: Any) -> bool:
        return not obj.is_quota and obj.enabled == (action == "disable")

    @admin.action(description="Switch on")
    def enable(self, request: HttpRequest, queryset: QuerySet[Budget]) -> None:
        changed = self.set_on_all(request, queryset.filter(is_quota=False), enabled=True)
        self.message_user(request, f"{changed} switched on.", messages.SUCCESS)

    @admin.action(description="Switch off")
    def disable(self, request: HttpRequest, queryset: QuerySet[Budget]) -> None:
        changed = self.set_on_all(request, queryset.filter(is_quota=False), enabled=False)
        self.message_user(request, f"{changed} switched off: they limit nothing any more.", messages.SUCCESS)

    @admin.display(description="limit", ordering="cap")
    def limit(self, budget: Budget) -> str:
        return amount(budget.cap, budget.metric)

    @admin.display(description="period", ordering="period")
    def period_(self, budget: Budget) -> str:
        return every(budget.rolling_s) if budget.rolling_s else budget.get_period_display()

    @admin.display(description="beyond it", ordering="hard")
    def strictness(self, budget: Budget) -> SafeString | str:
        word = badge("hard", "bad") if budget.hard else badge("soft", "quiet")
        return with_detail(word, "by the plan" if budget.is_quota else "")

    @admin.display(description="used now")
    def used(self, budget: Any) -> SafeString | str:
        return with_detail(use_bar(budget.use.spent, budget.use.held, budget.cap), budget.use.subject)

    @admin.display(description="spent and held")
    def spent_and_held(self, budget: Any) -> str:
        return f"{amount(budget.use.spent, budget.metric)} and {amount(budget.use.held, budget.metric)}"

    @admin.display(description="starts over at, UTC")
    def resets(self, budget: Budget) -> SafeString | str:
        if budget.rolling_s:
            return "bit by bit"
        return when(window_of(budget).period(datetime.now(UTC))[1])

    @admin.display(description="made by the plan", boolean=True)
    def from_plan(self, budget: Budget) -> bool:
        return budget.is_quota

    @admin.display(description="status", ordering="enabled")
    def state(self, budget: Budget) -> SafeString:
        return badge("on", "good") if budget.enabled else badge("off", "quiet")

    @admin.display(description="see also")
    def rows(self, budget: Budget) -> SafeString | str:
        return its_rows(budget, "budget__id__exact", ("billing_alertrule", "its alert rules"))


def _add_use(budgets: list[Any]) -> None:
    used = use_of(budgets, datetime.now(UTC))
    for budget in budgets:
        budget.use = used.get(budget.pk, BudgetUse())


@admin.register(RateLimit)
class RateLimitAdmin(ScopedAdmin):
    list_display = ("holds_for", "tenant_", "requests", "tokens", "at_a_time")
    list_filter = ("scope", "tenant")
    list_select_related = ("tenant", "project", "token__project")
    search_fields = ("subject", "project__slug", "token__name", "tenant__slug")
    fieldsets = (
        ("Holds for", {"fields": ("tenant", "scope", "project", "token", "subject")}),
        ("At most", {"fields": RateLimit.RATES, "description": "What is left empty is not limited here."}),
    )

    @admin.display(description="requests a minute", ordering="requests_per_minute")
    def requests(self, limit: RateLimit) -> str:
        return count(limit.requests_per_minute)

    @admin.display(description="tokens a minute", ordering="tokens_per_minute")
    def tokens(self, limit: RateLimit) -> str:
        return count(limit.tokens_per_minute)

    @admin.display(description="at a time", ordering="concurrent")
    def at_a_time(self, limit: RateLimit) -> str:
        return count(limit.concurrent)
