"""Models and their other names."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from billing.models import PriceVersion
from gateway.admin_columns import (
    NOTHING,
    add_link,
    badge,
    its_rows,
    links,
    object_link,
    plain_decimal,
    when_column,
    words,
)
from gateway.admin_forms import STAGES, CheckBoxesField, DeadlinesForm, LinesField
from gateway.admin_pages import ReadOnlyInline
from gateway.models import CAPABILITIES, Alias, Deployment, Model
from gateway.operations import effective_prices
from gateway.policy import VIRTUAL_NAMES
from tenants.models import Tenant


class ModelForm(DeadlinesForm):
    capabilities = CheckBoxesField(
        CAPABILITIES,
        required=False,
        help_text="Nothing ticked: not known, so nothing is refused before the vendor has its say.",
    )
    fallbacks = LinesField(
        required=False,
        help_text="Names of models tried next when this one fails: one a line, first to last.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        tenant = cleaned.get("tenant") if "tenant" in self.fields else self.instance.tenant
        unknown = set(cleaned.get("fallbacks") or ()) - {cleaned.get("name")} - _callable_names(tenant)
        if unknown:
            self.add_error("fallbacks", f"There is no model {', '.join(sorted(unknown))}.")
        return cleaned


class PriceInline(ReadOnlyInline):
    model = PriceVersion
    verbose_name_plural = "prices of its own"
    fields = (
        when_column("effective_from", "from"),
        "source",
        "input",
        "output",
        "cached_input",
        "reasoning",
        "per_request",
    )


class DeploymentInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Deployment
    extra = 0
    fields = ("provider", "vendor_model", "weight", "position")
    autocomplete_fields = ("provider",)
    verbose_name_plural = "deployments besides its own provider"


@admin.register(Model)
class ModelAdmin(AuditedAdmin):
    form = ModelForm
    list_display = ("name", "tenant_", "provider", "vendor_model", "modality", "state", "price", "fallback_words")
    list_filter = ("enabled", "modality", "provider__kind", "tenant")
    list_select_related = ("tenant", "provider")
    search_fields = ("name", "vendor_model", "provider__name", "tenant__slug")
    autocomplete_fields = ("tenant", "provider")
    fieldsets = (
        (None, {"fields": ("tenant", "name", "provider", "vendor_model", "enabled", "rows")}),
        ("Price", {"fields": ("price", "price_origin")}),
        ("What it can do", {"fields": ("modality", "capabilities", ("context_window", "max_output_tokens"))}),
        ("When it fails", {"fields": ("balancing", "fallbacks", "hedging")}),
        ("Deadlines", {"fields": (STAGES,), "description": "Seconds. A field left empty takes the provider's."}),
    )
    readonly_fields = ("price", "price_origin", "rows")
    inlines = (DeploymentInline, PriceInline)
    actions = ("enable", "disable")
    object_actions = ("enable", "disable")
    careful_actions = ("disable",)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        _add_prices(list(changelist.result_list))
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        model = super().get_object(request, object_id, from_field)
        if model is not None:
            _add_prices([model])
        return model

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "tenant") if obj else self.readonly_fields

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One that was never called and never had a price has no history."""
        return obj is not None and not obj.attempts.exists() and not obj.prices.exists()

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """A provider's page links to its models."""
        return lookup == "provider__id__exact" or super().lookup_allowed(lookup, value, request)

    def offers(self, action: str, obj: Model) -> bool:
        return obj.enabled == (action == "disable")

    @admin.action(description="Enable")
    def enable(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        changed = self.set_on_all(request, queryset, enabled=True)
        self.message_user(request, f"{changed} enabled.", messages.SUCCESS)

    @admin.action(description="Disable")
    def disable(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        changed = self.set_on_all(request, queryset, enabled=False)
        self.message_user(request, f"{changed} disabled: callers get a 404 for them.", messages.SUCCESS)

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, model: Model) -> str:
        return model.tenant.slug if model.tenant else "all tenants"

    @admin.display(description="status", ordering="enabled")
    def state(self, model: Model) -> SafeString:
        return badge("on", "good") if model.enabled else badge("off", "quiet")

    @admin.display(description="USD per million, input / output")
    def price(self, model: Any) -> SafeString | str:
        if model._state.adding:
            return "Set it after saving; until then the shipped price book applies where it knows the model."
        if model.price_now is None:
            return badge("no price", "warn")
        return f"{plain_decimal(model.price_now.input)} / {plain_decimal(model.price_now.output)}"

    @admin.display(description="from")
    def price_origin(self, model: Any) -> SafeString | str:
        if model._state.adding:
            return NOTHING
        applies = {"model": model.pk, **({"tenant": model.tenant_id} if model.tenant_id else {})}
        new = add_link("billing_priceversion", "Set price", **applies)
        if model.price_now is None:
            return new
        since = f"{model.price_now.get_source_display()}, since {model.price_now.effective_from:%Y-%m-%d}"
        return links([object_link(model.price_now, since), new])

    @admin.display(description="fallbacks")
    def fallback_words(self, model: Model) -> SafeString | str:
        return words(model.fallbacks)

    @admin.display(description="see also")
    def rows(self, model: Model) -> SafeString | str:
        return its_rows(model, "model__id__exact", ("billing_attempt", "ledger"), ("billing_priceversion", "prices"))


class AliasForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        tenant, wanted = cleaned.get("tenant"), cleaned.get("model_name")
        names_a_model = bool(tenant and wanted) and wanted not in VIRTUAL_NAMES
        if names_a_model and not Model.objects.filter(_visible_to(tenant), name=wanted).exists():
            raise ValidationError({"model_name": f"{tenant.slug} has no model of this name."})
        return cleaned


@admin.register(Alias)
class AliasAdmin(AuditedAdmin):
    form = AliasForm
    list_display = ("name", "model_name", "tenant", "updated_at")
    list_filter = ("tenant",)
    list_select_related = ("tenant",)
    search_fields = ("name", "model_name", "tenant__slug")
    autocomplete_fields = ("tenant",)
    fields = ("tenant", "name", "model_name")


def _add_prices(models: list[Any]) -> None:
    prices = effective_prices(models)
    for model in models:
        model.price_now = prices.get(model.pk)


def _visible_to(tenant: Tenant | None) -> Q:
    """A tenant's own rows and the installation's."""
    return Q(tenant=tenant) | Q(tenant=None)


def _callable_names(tenant: Tenant | None) -> set[str]:
    """Whatever a caller of the tenant may name: models, aliases, and models behind their provider's name."""
    models = Model.objects.filter(_visible_to(tenant)).values_list("name", "vendor_model", "provider__name")
    names = {name for name, _, _ in models} | set(Alias.objects.filter(tenant=tenant).values_list("name", flat=True))
    return names | {f"{provider}/{name}" for own, vendor, provider in models for name in (own, vendor)}
