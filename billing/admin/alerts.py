"""Who is told of what: channels and rules, alerts and whether they arrived."""

from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import F, OrderBy, QuerySet
from django.db.models.lookups import IsNull
from django.http import HttpRequest
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from billing.alerts import send_test
from billing.models import Alert, AlertChannel, AlertDelivery, AlertRule
from billing.models.alerts import LONGEST_CHANNEL_SECRET
from gateway.admin_columns import NOTHING, badge, object_link, plain_decimal, when_column, words
from gateway.admin_forms import OwnedForm
from gateway.admin_pages import ReadOnlyAdmin, ReadOnlyInline, labelled

_DELIVERY_TONES = {"pending": "warn", "sent": "good", "failed": "bad"}


class ChannelForm(OwnedForm):
    secret = forms.CharField(
        required=False,
        max_length=LONGEST_CHANNEL_SECRET,
        widget=forms.PasswordInput(attrs={"class": "vTextField", "autocomplete": "new-password"}),
        help_text="Write-only: webhooks are signed with it. Empty leaves the stored one; a new address clears it.",
    )


class OwnedRowAdmin(AuditedAdmin):
    """Of what a tenant or the installation has, and keeps."""

    list_select_related = ("tenant",)
    actions = ("enable", "disable")
    object_actions = ("enable", "disable")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "tenant") if obj else self.readonly_fields

    def offers(self, action: str, obj: Any) -> bool:
        return action not in ("enable", "disable") or obj.enabled == (action == "disable")

    @admin.action(description="Switch on")
    def enable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        changed = self.set_on_all(request, queryset, enabled=True)
        self.message_user(request, f"{changed} switched on.", messages.SUCCESS)

    @admin.action(description="Switch off")
    def disable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        changed = self.set_on_all(request, queryset, enabled=False)
        self.message_user(request, f"{changed} switched off.", messages.SUCCESS)

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, row: Any) -> str:
        return row.tenant.slug if row.tenant else "the operators"

    @admin.display(description="status", ordering="enabled")
    def state(self, row: Any) -> SafeString:
        return badge("on", "good") if row.enabled else badge("off", "quiet")


@admin.register(AlertChannel)
class AlertChannelAdmin(OwnedRowAdmin):
    form = ChannelForm
    list_display = ("name", "tenant_", "kind_", "where", "secret_", "state")
    list_filter = ("kind", "enabled", "tenant")
    search_fields = ("name", "tenant__slug")
    autocomplete_fields = ("tenant",)
    fields = ("tenant", "name", "kind", "address", "secret_", "secret", "enabled")
    readonly_fields = ("secret_",)
    actions = ("send_test", "enable", "disable")
    object_actions = ("send_test", "enable", "disable")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What was sent there stays on record: such a channel is switched off."""
        return obj is not None and not obj.deliveries.exists()

    def save_model(self, request: HttpRequest, obj: AlertChannel, form: Any, change: bool) -> None:
        address, secret = obj.address, form.cleaned_data.get("secret")
        had_secret = obj.has_secret
        if change:
            obj.address = form.initial["address"]
            obj.change_address(address)
        if secret:
            obj.set_secret(secret)
        elif had_secret and not obj.has_secret:
            self.message_user(
                request, "The secret was agreed with the old address, so it was cleared.", messages.WARNING
            )
        super().save_model(request, obj, form, change)

    @admin.action(description="Send a test")
    def send_test(self, request: HttpRequest, queryset: QuerySet[AlertChannel]) -> None:
        """One after the other; nothing is put on the delivery log."""
        for channel in queryset.select_related("tenant"):
            refusal = send_test(channel)
            if refusal is None:
                self.message_user(request, f"{channel}: the test was taken.", messages.SUCCESS)
            else:
                self.message_user(request, f"{channel}: not taken. {refusal}", messages.ERROR)

    @admin.display(description="kind", ordering="kind")
    def kind_(self, channel: AlertChannel) -> str:
        return channel.get_kind_display()

    @admin.display(description="where")
    def where(self, channel: AlertChannel) -> str:
        """Of a webhook the host only: the rest of such an address is often its password."""
        if channel.kind == AlertChannel.Kind.EMAIL:
            return channel.address
        return f"{urlsplit(channel.address).netloc}/…"

    @admin.display(description="stored secret")
    def secret_(self, channel: AlertChannel) -> SafeString | str:
        if channel.has_secret:
            return "…"
        return badge("unsigned", "warn") if channel.kind == AlertChannel.Kind.WEBHOOK else NOTHING


class RuleForm(OwnedForm):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if "tenant" in cleaned:
            self.instance.tenant = cleaned["tenant"]
        try:
            self.instance.refuse_foreign_channels(cleaned.get("channels") or ())
        except ValidationError as exc:
            self.add_error(None, exc)
        return cleaned


@admin.register(AlertRule)
class AlertRuleAdmin(OwnedRowAdmin):
    form = RuleForm
    list_display = ("name", "tenant_", "kind_", "threshold_", "watches", "within", "told", "state")
    list_filter = ("kind", "enabled", "tenant")
    list_select_related = ("tenant", "budget", "project")
    search_fields = ("name", "tenant__slug", "model_name")
    autocomplete_fields = ("tenant", "budget", "project", "channels")
    fieldsets = (
        (None, {"fields": ("tenant", "name", "kind", "enabled")}),
        ("When", {"fields": ("threshold", "window_minutes", "least_requests", "cooldown_minutes")}),
        ("Watches", {"fields": ("budget", "project", "model_name")}),
        ("Tells", {"fields": ("channels",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertRule]:
        return super().get_queryset(request).prefetch_related("channels")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return labelled(super().formfield_for_manytomany(db_field, request, **kwargs))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """A budget's page links to its rules."""
        return lookup == "budget__id__exact" or super().lookup_allowed(lookup, value, request)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Channels are set by the model's own call, which is audited; there are no other parts."""
        form.instance.set_channels(form.cleaned_data["channels"], self.actor(request))

    @admin.display(description="tells of", ordering="kind")
    def kind_(self, rule: AlertRule) -> str:
        return rule.get_kind_display()

    @admin.display(description="from", ordering="threshold")
    def threshold_(self, rule: AlertRule) -> str:
        return NOTHING if rule.threshold is None else plain_decimal(rule.threshold)

    @admin.display(description="watches")
    def watches(self, rule: AlertRule) -> str:
        return ", ".join(str(part) for part in (rule.budget, rule.project, rule.model_name) if part) or "everything"

    @admin.display(description="within / again after, minutes")
    def within(self, rule: AlertRule) -> str:
        return f"{rule.window_minutes} / {rule.cooldown_minutes}"

    @admin.display(description="tells")
    def told(self, rule: AlertRule) -> SafeString | str:
        return words(channel.name for channel in rule.channels.all())


class OpenFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "open"), ("resolved", "resolved")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(resolved_at__isnull=self.value() == "open") if self.value() else queryset


class DeliveryInline(ReadOnlyInline):
    model = AlertDelivery
    fields = (
        "channel", "event", "state", "tries", when_column("sent_at", "sent"), when_column("next_try_at", "next try"),
        "last_error",
    )  # fmt: skip

    @admin.display(description="status")
    def state(self, delivery: AlertDelivery) -> SafeString:
        return delivery_badge(delivery)


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """What was told; what is still so comes first."""

    list_display = (
        "state", "message", "kind_", "tenant_", "rule", when_column("opened_at", "opened"),
        when_column("resolved_at", "resolved"),
    )  # fmt: skip
    list_display_links = ("message",)
    list_filter = (OpenFilter, "kind", "tenant")
    list_select_related = ("tenant", "rule")
    search_fields = ("message",)
    ordering = (OrderBy(IsNull(F("resolved_at"), True), descending=True), "-opened_at")
    fields = ("state", "message", "kind_", "tenant_", "rule_", "budget", "opened_at", "resolved_at", "facts_")
    inlines = (DeliveryInline,)

    @admin.display(description="status", ordering="resolved_at")
    def state(self, alert: Alert) -> SafeString:
        return badge("resolved", "quiet") if alert.resolved_at else badge("open", "bad")

    @admin.display(description="kind", ordering="kind")
    def kind_(self, alert: Alert) -> str:
        return alert.get_kind_display()

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, alert: Alert) -> str:
        return alert.tenant.slug if alert.tenant else "the operators"

    @admin.display(description="rule")
    def rule_(self, alert: Alert) -> SafeString | str:
        return object_link(alert.rule)

    @admin.display(description="budget")
    def budget(self, alert: Alert) -> SafeString | str:
        return object_link(alert.budget_period.budget if alert.budget_period else None)

    @admin.display(description="facts")
    def facts_(self, alert: Alert) -> SafeString | str:
        return words(f"{name.replace('_', ' ')}: {value}" for name, value in alert.facts.items())


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin):
    """Whether messages arrived. "sent": the other side took it."""

    list_display = (
        when_column("created_at", "made at"), "alert", "event", "channel", "tenant", "state", "tries",
        when_column("next_try_at", "next try"), when_column("sent_at", "sent"), "last_error",
    )  # fmt: skip
    list_filter = ("status", "event", "tenant")
    list_select_related = ("alert", "channel", "tenant")
    search_fields = ("alert__message", "channel__name")
    fields = (
        "id", "alert_", "channel_", "tenant", "event", "state", "tries", "next_try_at", "sent_at", "last_error",
        "created_at",
    )  # fmt: skip

    @admin.display(description="status", ordering="status")
    def state(self, delivery: AlertDelivery) -> SafeString:
        return delivery_badge(delivery)

    @admin.display(description="alert")
    def alert_(self, delivery: AlertDelivery) -> SafeString | str:
        return object_link(delivery.alert)

    @admin.display(description="channel")
    def channel_(self, delivery: AlertDelivery) -> SafeString | str:
        return object_link(delivery.channel)


def delivery_badge(delivery: AlertDelivery) -> SafeString:
    return badge(delivery.status, _DELIVERY_TONES[delivery.status])  # type: ignore[arg-type]
