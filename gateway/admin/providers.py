"""Providers and their keys."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.validators import RegexValidator
from django.db import transaction
from django.db.models import Count, Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from gateway.admin_columns import (
    NOTHING,
    add_link,
    badge,
    count_link,
    its_rows,
    links,
    plain_decimal,
    with_detail,
)
from gateway.admin_forms import STAGES, DeadlinesForm
from gateway.admin_pages import ReadOnlyAdmin, ReadOnlyInline
from gateway.models import LONGEST_SECRET, Model, Provider, ProviderKey
from gateway.provider_check import check_provider
from gateway.providers import catalog

_CHECK_TONES = {"ok": "good", "failing": "bad", "unknown": "quiet"}


class ProviderForm(DeadlinesForm):
    kind = forms.ChoiceField(
        choices=[("", "---------"), *((kind, catalog.get(kind).label) for kind in catalog.KINDS)],
        help_text="Which vendor, or which format an address of your own speaks.",
    )
    key = forms.CharField(
        label="Key",
        required=False,
        max_length=LONGEST_SECRET,
        validators=[RegexValidator(r"\A[!-~]+\Z", "A key consists of printable ASCII characters without spaces.")],
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}),
        help_text="Write-only: a text here becomes the key, empty leaves the stored one. "
        "It is stored encrypted and bound to the base URL; changing the URL clears it.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "base_url" in self.fields:
            self.fields["base_url"].label = "Base URL"
        if not self.instance._state.adding and "base_url" in self.fields:
            vendor = catalog.get(self.instance.kind)
            self.fields["base_url"].widget.attrs["placeholder"] = vendor.base_url or "https://…"


class ModelInline(ReadOnlyInline):
    model = Model
    fields = ("name", "vendor_model", "enabled", "price")
    readonly_fields = ("price",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        return super().get_queryset(request).select_related("provider").prefetch_related("prices")

    @admin.display(description="own price, USD per million input / output")
    def price(self, model: Model) -> str:
        own = max(model.prices.all(), key=lambda version: version.effective_from, default=None)
        return f"{plain_decimal(own.input)} / {plain_decimal(own.output)}" if own else NOTHING


@admin.register(Provider)
class ProviderAdmin(AuditedAdmin):
    form = ProviderForm
    list_display = ("name", "tenant_", "kind_", "key_", "models_", "state", "check_")
    list_filter = ("enabled", "check_status", "kind", "tenant")
    list_select_related = ("tenant",)
    search_fields = ("name", "kind", "base_url", "tenant__slug")
    ordering = ("tenant__slug", "name")
    autocomplete_fields = ("tenant",)
    fieldsets = (
        (None, {"fields": ("tenant", "name", "kind", "base_url", "key_", "key", "enabled", "rows")}),
        ("Health", {"fields": ("check_", "check_message")}),
        (
            "Deadlines",
            {
                "fields": (STAGES,),
                "description": "Seconds. A field left empty takes the default shown in it; a model may override it.",
            },
        ),
        ("Behaviour", {"fields": ("on_disconnect", "region", "weight")}),
    )
    readonly_fields = ("key_", "check_", "check_message", "rows")
    inlines = (ModelInline,)
    actions = ("check_now", "enable", "disable", "revoke_key")
    object_actions = ("check_now", "enable", "disable", "revoke_key")
    careful_actions = ("disable", "revoke_key")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        active = ProviderKey.objects.filter(status=ProviderKey.Status.ACTIVE)
        rows = super().get_queryset(request).annotate(model_count=Count("models"))
        return rows.prefetch_related(Prefetch("keys", active, to_attr="active_keys"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The key is sealed for its owner and the vendor's address: neither changes under it."""
        return (*self.readonly_fields, "tenant", "kind", "kind_") if obj else self.readonly_fields

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        (title, first), *others = self.fieldsets
        kind = "kind_" if obj else "kind"
        return ((title, {"fields": tuple(kind if name == "kind" else name for name in first["fields"])}), *others)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One that was never used has no history either."""
        return obj is not None and not obj.models.exists() and not obj.attempts.exists()

    def offers(self, action: str, obj: Any) -> bool:
        if action in ("enable", "disable"):
            return obj.enabled == (action == "disable")
        return action != "revoke_key" or bool(obj.active_keys)

    def save_model(self, request: HttpRequest, obj: Provider, form: Any, change: bool) -> None:
        address = obj.base_url
        if change:
            obj.base_url = form.initial["base_url"]
        super().save_model(request, obj, form, change)
        actor = self.actor(request)
        if address != obj.base_url:
            had_key = obj.active_key() is not None
            obj.change_base_url(address, actor)
            if had_key and obj.active_key() is None and not form.cleaned_data["key"]:
                self.message_user(
                    request, "The key was given for the old address, so it was revoked.", messages.WARNING
                )
        if secret := form.cleaned_data.get("key"):
            obj.set_key(secret, actor)

    @admin.action(description="Check now")
    def check_now(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        """One after the other: each asks the vendor for its models and one token's worth."""
        for provider in queryset:
            result = check_provider(provider)
            if result.ok:
                latency = f" in {result.latency_ms:.0f} ms" if result.latency_ms is not None else ""
                self.message_user(request, f"{provider} answered{latency}.", messages.SUCCESS)
            else:
                self.message_user(request, f"{provider} failed at {result.stage}: {result.message}", messages.ERROR)

    @admin.action(description="Enable")
    def enable(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        changed = self.set_on_all(request, queryset, enabled=True)
        self.message_user(request, f"{changed} enabled.", messages.SUCCESS)

    @admin.action(description="Disable")
    def disable(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        changed = self.set_on_all(request, queryset, enabled=False)
        self.message_user(request, f"{changed} disabled: their models are not served.", messages.SUCCESS)

    @admin.action(description="Revoke key")
    def revoke_key(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        with transaction.atomic():
            keys = list(ProviderKey.objects.filter(provider__in=queryset, status=ProviderKey.Status.ACTIVE))
            for key in keys:
                key.revoke(self.actor(request))
        self.message_user(request, f"{len(keys)} keys revoked.", messages.SUCCESS)

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, provider: Provider) -> str:
        return provider.tenant.slug if provider.tenant else "all tenants"

    @admin.display(description="kind", ordering="kind")
    def kind_(self, provider: Provider) -> str:
        return catalog.get(provider.kind).label

    @admin.display(description="stored key")
    def key_(self, provider: Any) -> SafeString | str:
        keys = getattr(provider, "active_keys", [])
        if keys:
            return with_detail(str(keys[0]), f"since {keys[0].created_at:%Y-%m-%d}")
        needed = bool(provider.kind) and catalog.get(provider.kind).key_required
        return badge("missing", "warn") if needed else NOTHING

    @admin.display(description="models", ordering="model_count")
    def models_(self, provider: Any) -> SafeString:
        return count_link(provider.model_count, "gateway_model", provider__id__exact=provider.pk)

    @admin.display(description="status", ordering="enabled")
    def state(self, provider: Provider) -> SafeString:
        return badge("on", "good") if provider.enabled else badge("off", "quiet")

    @admin.display(description="last check", ordering="check_status")
    def check_(self, provider: Provider) -> SafeString | str:
        word = badge(provider.get_check_status_display(), _CHECK_TONES[provider.check_status])  # type: ignore[arg-type]
        return with_detail(word, f"{provider.checked_at:%Y-%m-%d %H:%M}" if provider.checked_at else "")

    @admin.display(description="see also")
    def rows(self, provider: Provider) -> SafeString | str:
        if provider._state.adding:
            return NOTHING
        add = {"provider": provider.pk, **({"tenant": provider.tenant_id} if provider.tenant_id else {})}
        new = add_link("gateway_model", "add a model", **add)
        listed = its_rows(provider, "provider__id__exact", ("gateway_model", "models"), ("billing_attempt", "ledger"))
        return links([listed, new])


@admin.register(ProviderKey)
class ProviderKeyAdmin(ReadOnlyAdmin):
    """What keys there were; they are set and revoked on their provider's page. The ciphertext is never shown."""

    list_display = (
        "masked",
        "provider",
        "tenant",
        "state",
        "base_url",
        "master_key_number",
        "created_at",
        "updated_at",
    )
    list_filter = ("status", "master_key_number")
    list_select_related = ("provider", "tenant")
    search_fields = ("provider__name", "=last_four")
    date_hierarchy = "created_at"
    fields = ("masked", "provider", "tenant", "state", "base_url", "master_key_number", "created_at", "updated_at")

    @admin.display(description="key")
    def masked(self, key: ProviderKey) -> str:
        return str(key)

    @admin.display(description="status", ordering="status")
    def state(self, key: ProviderKey) -> SafeString:
        return badge(key.status, "good" if key.status == ProviderKey.Status.ACTIVE else "quiet")
