"""Plans, and which tenant is on which."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from billing.features import FEATURES
from billing.models import Plan, Subscription
from gateway.admin_columns import NOTHING, badge, count, count_link, plain_decimal, words
from gateway.admin_forms import CheckBoxesField


class PlanForm(forms.ModelForm):  # type: ignore[type-arg]
    some_features = forms.BooleanField(
        label="Only some features", required=False, help_text="Those ticked below. Off: all of them."
    )
    features = CheckBoxesField(FEATURES, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["some_features"] = self.instance.features is not None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not cleaned.get("some_features"):
            if cleaned.get("features"):
                self.add_error("some_features", "All features are included while this is off.")
            cleaned["features"] = None
        return cleaned


@admin.register(Plan)
class PlanAdmin(AuditedAdmin):
    """A changed plan changes the quotas of every tenant that is on it, in the same transaction."""

    form = PlanForm
    list_display = ("name", "requests", "tokens", "beyond", "seats_", "retention_days", "features_", "tenants")
    list_filter = ("overage",)
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name",)}),
        ("Included in a month", {"fields": ("monthly_requests", "monthly_tokens", "overage")}),
        ("Further", {"fields": ("seats", "retention_days", "audit_retention_days")}),
        ("Features", {"fields": ("some_features", "features")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        return super().get_queryset(request).annotate(subscription_count=Count("subscriptions"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is not None and not obj.subscriptions.exists()

    def save_model(self, request: HttpRequest, obj: Plan, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        obj.sync_quotas(self.actor(request))

    @admin.display(description="requests a month", ordering="monthly_requests")
    def requests(self, plan: Plan) -> str:
        return count(plan.monthly_requests)

    @admin.display(description="tokens a month", ordering="monthly_tokens")
    def tokens(self, plan: Plan) -> str:
        return count(plan.monthly_tokens)

    @admin.display(description="beyond", ordering="overage")
    def beyond(self, plan: Plan) -> SafeString:
        return badge("billed", "quiet") if plan.overage else badge("refused", "bad")

    @admin.display(description="seats", ordering="seats")
    def seats_(self, plan: Plan) -> str:
        return count(plan.seats)

    @admin.display(description="features")
    def features_(self, plan: Plan) -> SafeString | str:
        return "all" if plan.features is None else words(plan.features)

    @admin.display(description="tenants", ordering="subscription_count")
    def tenants(self, plan: Any) -> SafeString:
        return count_link(plan.subscription_count, "billing_subscription", plan__id__exact=plan.pk)


@admin.register(Subscription)
class SubscriptionAdmin(AuditedAdmin):
    list_display = ("tenant", "plan", "discount", "overridden")
    list_filter = ("plan",)
    list_select_related = ("tenant", "plan")
    search_fields = ("tenant__slug", "plan__name")
    autocomplete_fields = ("tenant", "plan")
    fields = ("tenant", "plan", "overrides", "discount_percent", "stripe_customer", "stripe_from", "in_force")
    readonly_fields = ("in_force",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "tenant") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        obj.sync_quotas(self.actor(request))

    @transaction.atomic
    def delete_audited(self, request: HttpRequest, obj: Model) -> None:
        if isinstance(obj, Subscription):
            obj.end(self.actor(request))

    @admin.display(description="discount", ordering="discount_percent")
    def discount(self, subscription: Subscription) -> str:
        return f"{plain_decimal(subscription.discount_percent)} %" if subscription.discount_percent else NOTHING

    @admin.display(description="agreed differently")
    def overridden(self, subscription: Subscription) -> SafeString | str:
        return words(_named(subscription.overrides))

    @admin.display(description="in force")
    def in_force(self, subscription: Subscription) -> SafeString | str:
        return NOTHING if subscription._state.adding else words(_named(subscription.terms()))


def _named(terms: dict[str, Any]) -> list[str]:
    return [
        f"{name.replace('_', ' ')}: {'all' if name == 'features' and value is None else _term(value)}"
        for name, value in terms.items()
    ]


def _term(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    return "no limit" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
