"""The price book."""

import re
from datetime import UTC, datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import SafeString

from audit.admin_trail import AuditedAdmin
from billing.models import TOKEN_PRICES, PriceVersion
from gateway.admin_columns import NOTHING, exact_usd, object_link, when_column, words
from gateway.admin_forms import LinesField

_AMOUNT = re.compile(r"\d{1,12}(\.\d{1,6})?")
_OUTPUT_CLASSES = ("output", "reasoning", "audio_output")
_SERVED_AS = {"batch": "Batch and flex", "priority": "Priority"}


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new price. Prices are never changed: each is a version that holds until the next one."""

    tiers = LinesField(
        label="Long prompts",
        required=False,
        help_text='Other prices above a prompt length, one a line: "200000 input=2.5 output=15" holds for all tokens '
        "of a request whose prompt is longer than 200,000 tokens.",
    )

    batch = LinesField(
        label=_SERVED_AS["batch"],
        required=False,
        help_text="Other prices where the vendor says that it served the call as a batch or in its flex tier: "
        '"input=0.6 output=5", and for long prompts further lines like those above. What is not named costs the same.',
    )

    priority = LinesField(
        label=_SERVED_AS["priority"],
        required=False,
        help_text="Likewise, where the vendor says that it served the call in its priority tier, or in fast mode.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "effective_from" in self.fields:
            self.fields["effective_from"].required = False
            self.fields["effective_from"].help_text = "Empty: from now on."
        for name in TOKEN_PRICES[2:]:
            if name in self.fields:
                like = "output" if name in _OUTPUT_CLASSES else "input"
                self.fields[name].widget.attrs["placeholder"] = f"as {like}"

    def clean_tiers(self) -> list[dict[str, Any]]:
        return [_tier(line) for line in self.cleaned_data["tiers"]]

    def clean_batch(self) -> dict[str, Any] | None:
        return _terms(self.cleaned_data["batch"])

    def clean_priority(self) -> dict[str, Any] | None:
        return _terms(self.cleaned_data["priority"])

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
        ("USD per million tokens", {"fields": (("input", "output"), *TOKEN_PRICES[2:])}),
        ("Further", {"fields": ("per_request", "tiers", *_SERVED_AS)}),
    )
    fieldsets = (
        (None, {"fields": ("applies_to", "tenant_", "effective_from", "source", "created_at")}),
        ("USD per million tokens", {"fields": TOKEN_PRICES}),
        ("Further", {"fields": ("per_request", "tier_lines", "batch_lines", "priority_lines")}),
    )
    readonly_fields = ("applies_to", "tenant_", "tier_lines", "batch_lines", "priority_lines")

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
            **{name: given[name] for name in (*applies_to, *TOKEN_PRICES, *_SERVED_AS)},
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
        return words(map(_told_tier, price.tiers))

    @admin.display(description=_SERVED_AS["batch"].lower())
    def batch_lines(self, price: PriceVersion) -> SafeString | str:
        return _told_terms(price.batch or {})

    @admin.display(description=_SERVED_AS["priority"].lower())
    def priority_lines(self, price: PriceVersion) -> SafeString | str:
        return _told_terms(price.priority or {})


def _told_terms(terms: dict[str, Any]) -> SafeString | str:
    base = {name: value for name, value in terms.items() if name != "tiers"}
    return words([*([_told(base)] if base else []), *map(_told_tier, terms.get("tiers", ()))])


def _told_tier(tier: dict[str, Any]) -> str:
    amounts = {name: value for name, value in tier.items() if name != "above_input_tokens"}
    return f"above {tier['above_input_tokens']:,}: {_told(amounts)}"


def _told(amounts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in amounts.items())


def _terms(lines: list[str]) -> dict[str, Any] | None:
    """Of ``input=0.6 output=5`` and, for long prompts, of lines as :func:`_tier` reads them. Raises ValidationError."""
    terms: dict[str, Any] = {}
    tiers = []
    for line in lines:
        if line[0].isdigit():
            tiers.append(_tier(line))
        else:
            terms |= _amounts(line, line.split())
    return terms | ({"tiers": tiers} if tiers else {}) or None


def _tier(line: str) -> dict[str, Any]:
    """Of ``200000 input=2.5 output=15``. Raises ValidationError."""
    above, *pairs = line.split()
    if not above.isdecimal():
        raise _not_understood(line)
    return {"above_input_tokens": int(above), **_amounts(line, pairs)}


def _amounts(line: str, pairs: list[str]) -> dict[str, str]:
    """Of ``input=2.5 output=15``. Raises ValidationError."""
    prices = dict(pair.partition("=")[::2] for pair in pairs)
    known = bool(prices) and prices.keys() <= set(TOKEN_PRICES)
    if not known or not all(_AMOUNT.fullmatch(amount) for amount in prices.values()):
        raise _not_understood(line)
    return prices


def _not_understood(line: str) -> ValidationError:
    return ValidationError(f'Not understood: "{line}". Write it like "200000 input=2.5 output=15".')
