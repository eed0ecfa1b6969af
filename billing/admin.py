"""The operators' pages of money: the price book, the ledger and the processes that write it."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from billing.models import Adjustment, Attempt, GatewayProcess, PriceVersion, Settlement
from gateway.admin_columns import (
    NOTHING,
    badge,
    duration,
    exact_usd,
    list_link,
    object_link,
    pair,
    when_column,
    with_detail,
    words,
)
from gateway.admin_forms import LinesField
from gateway.admin_pages import OwnedFilter, PartitionedAdmin, ReadOnlyAdmin, ReadOnlyInline

OPEN = "open"
_TONES = {"settled": "good", "failed": "bad", "cancelled": "quiet", "abandoned": "warn"}
_CLASSES = (
    "input",
    "output",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)
_AMOUNT = re.compile(r"\d{1,12}(\.\d{1,6})?")
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
        ("Money", {"fields": ("price_version", "held", "process_id")}),
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


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new price. Prices are never changed: each is a version that holds until the next one."""

    tiers = LinesField(
        label="Long prompts",
        required=False,
        help_text='Other prices above a prompt length, one a line: "200000 input=2.5 output=15" holds for all tokens '
        "of a request whose prompt is longer than 200,000 tokens.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "effective_from" in self.fields:
            self.fields["effective_from"].required = False
            self.fields["effective_from"].help_text = "Empty: from now on."
        for name in _CLASSES[2:]:
            if name in self.fields:
                like = "output" if name in _OUTPUT_CLASSES else "input"
                self.fields[name].widget.attrs["placeholder"] = f"as {like}"

    def clean_tiers(self) -> list[dict[str, Any]]:
        return [_tier(line) for line in self.cleaned_data["tiers"]]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        model = cleaned.get("model")
        if not model and not cleaned.get("vendor_model_pattern"):
            raise ValidationError("Say what it applies to: a model, or a pattern of the vendor's model names.")
        cleaned["tenant"] = cleaned.get("tenant") or (model.tenant if model else None)
        cleaned["effective_from"] = cleaned.get("effective_from") or datetime.now(UTC)
        return cleaned

    def _post_clean(self) -> None:
        """The model compares its amounts with each other, so it is asked only when all of them can be read."""
        if not self.errors:
            super()._post_clean()


@admin.register(PriceVersion)
class PriceVersionAdmin(AuditedAdmin):
    """The price book, read-only but for new versions."""

    form = PriceForm
    list_display = (
        "applies_to",
        "tenant_",
        "kind",
        "input_",
        "output_",
        "cached",
        when_column("effective_from", "from"),
        "source",
    )
    list_filter = ("source", "provider_kind", "tenant")
    list_select_related = ("tenant", "model")
    search_fields = ("vendor_model_pattern", "model__name", "provider_kind")
    date_hierarchy = "effective_from"
    autocomplete_fields = ("tenant", "model")
    add_fieldsets: ClassVar[Any] = (
        (
            "Applies to",
            {
                "fields": ("tenant", "model", ("provider_kind", "vendor_model_pattern"), "effective_from"),
                "description": "One configured model, or a vendor's model by kind and name pattern.",
            },
        ),
        ("USD per million tokens", {"fields": (("input", "output"), *_CLASSES[2:])}),
        ("Further", {"fields": ("per_request", "tiers")}),
    )
    fieldsets = (
        (None, {"fields": ("applies_to", "tenant_", "effective_from", "source", "created_at")}),
        ("USD per million tokens", {"fields": _CLASSES}),
        ("Further", {"fields": ("per_request", "tier_lines")}),
    )
    readonly_fields = ("applies_to", "tenant_", "tier_lines")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """A model's page links to its prices."""
        return lookup == "model__id__exact" or super().lookup_allowed(lookup, value, request)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fieldsets if obj else self.add_fieldsets

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        given = form.cleaned_data
        applies_to = ("tenant", "model", "provider_kind", "vendor_model_pattern", "effective_from", "per_request")
        stored, obj.is_written = PriceVersion.set_price(
            actor=self.actor(request),
            tiers=given["tiers"],
            **{name: given[name] for name in (*applies_to, *_CLASSES)},
        )
        obj.pk = stored.pk

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        """Who came from a model goes back to it."""
        if obj.is_written:
            response = super().response_add(request, obj, post_url_continue)
        else:
            self.message_user(request, "That price holds already, so nothing was written.", messages.WARNING)
            response = redirect("admin:billing_priceversion_changelist")
        stays = "_addanother" in request.POST or "_popup" in request.POST
        return redirect("admin:gateway_model_change", obj.model_id) if obj.model_id and not stays else response

    @admin.display(description="applies to")
    def applies_to(self, price: PriceVersion) -> SafeString | str:
        return object_link(price.model) if price.model else price.vendor_model_pattern

    @admin.display(description="tenant", ordering="tenant__slug")
    def tenant_(self, price: PriceVersion) -> str:
        return price.tenant.slug if price.tenant else "all tenants"

    @admin.display(description="kind", ordering="provider_kind")
    def kind(self, price: PriceVersion) -> str:
        return price.provider_kind or NOTHING

    @admin.display(description="input", ordering="input")
    def input_(self, price: PriceVersion) -> SafeString:
        return exact_usd(price.input)

    @admin.display(description="output", ordering="output")
    def output_(self, price: PriceVersion) -> SafeString:
        return exact_usd(price.output)

    @admin.display(description="cached input", ordering="cached_input")
    def cached(self, price: PriceVersion) -> SafeString | str:
        return exact_usd(price.cached_input) if price.cached_input is not None else NOTHING

    @admin.display(description="long prompts")
    def tier_lines(self, price: PriceVersion) -> SafeString | str:
        return words(
            f"above {tier['above_input_tokens']:,}: "
            + ", ".join(f"{name} {value}" for name, value in tier.items() if name != "above_input_tokens")
            for tier in price.tiers
        )


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
    counts = {name: getattr(settlement, f"{name}_tokens") for name in _CLASSES}
    out = sum(counts.pop(name) for name in _OUTPUT_CLASSES)
    return with_detail(pair(sum(counts.values()), out), "" if told else settlement.usage_source)


def token_classes(settlement: Settlement) -> list[str]:
    """The disjoint classes that are not empty, each with its count."""
    counts = {name: getattr(settlement, f"{name}_tokens") for name in _CLASSES}
    return [f"{name.replace('_', ' ')} {number:,}" for name, number in counts.items() if number]


def _settlement(attempt: Attempt) -> Settlement | None:
    return getattr(attempt, "settlement", None)


def _tier(line: str) -> dict[str, Any]:
    """Of ``200000 input=2.5 output=15``. Raises ValidationError."""
    above, *pairs = line.split()
    prices = dict(pair.partition("=")[::2] for pair in pairs)
    known = bool(prices) and prices.keys() <= set(_CLASSES)
    if not above.isdecimal() or not known or not all(_AMOUNT.fullmatch(amount) for amount in prices.values()):
        raise ValidationError(f'Not understood: "{line}". Write it like "200000 input=2.5 output=15".')
    return {"above_input_tokens": int(above), **prices}
