"""What tokens cost: the price book."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from msgspec import structs

from audit.actions import Action
from audit.record import Actor, record
from billing.pricing import SERVICE_PRICES, Price, PricedVersion
from gateway.rows import new_id
from tenants.models import Tenant

if TYPE_CHECKING:
    from gateway.models import Model

TOKEN_PRICES = (
    "input",
    "output",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)
Usd = Decimal | str | int


class PriceVersion(models.Model):
    """What a model costs from a moment on. Append-only: a new price is a new row.

    Applies to one configured model or, as the shipped book does, to a provider kind and a pattern of the
    vendor's model names. Prices are USD per million tokens by disjoint token class, with at most six decimals,
    so that every cost is exact in the ledger's twelve; an empty class is charged as ``input`` or ``output``.
    """

    class Source(models.TextChoices):
        BOOK = "genai-prices", "shipped price book"
        OPERATOR = "operator", "operator"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="prices",
        help_text="Empty: holds for every tenant without a price of its own.",
    )
    model = models.ForeignKey(
        "gateway.Model",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="prices",
        help_text="Empty: applies by provider kind and pattern.",
    )
    provider_kind = models.CharField(max_length=32, blank=True)
    vendor_model_pattern = models.CharField(max_length=200, blank=True, help_text='A name or "gpt-4o-*".')
    effective_from = models.DateTimeField()
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.OPERATOR)
    input = models.DecimalField(max_digits=18, decimal_places=6, help_text="USD per million tokens")
    output = models.DecimalField(max_digits=18, decimal_places=6, help_text="USD per million tokens")
    cached_input = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    cache_write_5m = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    cache_write_1h = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    reasoning = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    audio_input = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    audio_output = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    per_request = models.DecimalField(max_digits=18, decimal_places=6, default=0, help_text="USD per call")
    tiers = models.JSONField(
        default=list,
        blank=True,
        help_text='Prices above a prompt length: [{"above_input_tokens": 200000, "input": "2.5", ...}]',
    )
    batch = models.JSONField(
        null=True,
        blank=True,
        help_text='Prices of what the vendor served as a batch or in its flex tier: {"input": "0.6", ...}',
    )
    priority = models.JSONField(
        null=True, blank=True, help_text='Prices of what the vendor served in its priority tier: {"input": "2.5", ...}'
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-effective_from",)
        constraints = (
            models.CheckConstraint(
                condition=Q(model__isnull=False) | ~Q(vendor_model_pattern=""), name="price_applies_to_something"
            ),
            models.UniqueConstraint(
                fields=("tenant", "model", "provider_kind", "vendor_model_pattern", "effective_from"),
                nulls_distinct=False,
                name="one_price_at_a_time",
            ),
        )

    def __str__(self) -> str:
        return f"{self.model or self.vendor_model_pattern} from {self.effective_from:%Y-%m-%d}"

    def clean(self) -> None:
        if self.model is not None and self.model.tenant_id not in (None, self.tenant_id):
            raise ValidationError({"model": "This model belongs to another tenant."})
        if self.model_id and (self.provider_kind or self.vendor_model_pattern):
            raise ValidationError("A price applies to one model, or to a pattern of names: not to both.")
        if self.input is None or self.output is None:
            return  # which the fields say themselves
        try:
            self.as_priced_version()
        except (ArithmeticError, TypeError, AttributeError):  # only what is free JSON comes this far unchecked
            raise ValidationError(
                "Tiers are a list, batch and priority are mappings that may have tiers too: all of them give amounts "
                "of USD by token class."
            ) from None
        except ValueError as exc:
            raise ValidationError(str(exc)) from None

    @classmethod
    @transaction.atomic
    def set_price(
        cls,
        *,
        actor: Actor,
        input: Usd,
        output: Usd,
        model: "Model | None" = None,
        provider_kind: str = "",
        vendor_model_pattern: str = "",
        tenant: Tenant | None = None,
        effective_from: datetime | None = None,
        per_request: Usd = 0,
        tiers: Iterable[dict[str, Any]] = (),
        batch: dict[str, Any] | None = None,
        priority: dict[str, Any] | None = None,
        **classes: Usd | None,
    ) -> tuple["PriceVersion", bool]:
        """The price of a model, or of a pattern of names at a kind of provider, from a moment (default: now) on.

        Amounts are USD per million tokens; ``classes`` are the remaining ones of :data:`TOKEN_PRICES`. The price
        of a tenant's own model is that tenant's. Returns the version and whether it is new: a price that holds
        already is not written again. Raises ValidationError.
        """
        if unknown := classes.keys() - set(TOKEN_PRICES):
            raise ValidationError(f"Not a token class: {', '.join(sorted(unknown))}.")
        subject = {
            "tenant": tenant or (model.tenant if model else None),
            "model": model,
            "provider_kind": provider_kind,
            "vendor_model_pattern": vendor_model_pattern,
        }
        amounts = {"input": input, "output": output, "per_request": per_request, **classes}
        new = cls(
            **subject,
            **{name: _usd(name, amount) for name, amount in amounts.items()},
            effective_from=effective_from or datetime.now(UTC),
            tiers=list(tiers),
            batch=batch or None,
            priority=priority or None,
        )
        new.full_clean(validate_unique=False, validate_constraints=False)
        held = cls.objects.filter(**subject, effective_from__lte=new.effective_from).order_by("-effective_from").first()
        if held is not None and held.amounts() == new.amounts():
            return held, False
        new.full_clean()
        new.save(force_insert=True)
        changes = {name: [None, amount] for name, amount in new.amounts().items() if amount}
        record(actor, Action.PRICE_SET, new, tenant=new.tenant, changes=changes)
        return new, True

    def amounts(self) -> dict[str, Any]:
        """What it costs, without when and for what; equal where the price is."""
        return {name: getattr(self, name) for name in (*TOKEN_PRICES, "per_request", "tiers", *SERVICE_PRICES)}

    def as_priced_version(self, discount_bp: int = 0) -> PricedVersion:
        """As the hot path needs it, for a tenant that gets so many hundredths of a per cent off.

        Raises ValueError for amounts that are negative or finer than six decimals.
        """
        price = Price.from_decimals(str(self.pk), **self.amounts())
        return PricedVersion(
            price=structs.replace(price, discount_bp=discount_bp) if discount_bp else price,
            effective_from=self.effective_from,
            tenant_id=str(self.tenant_id) if self.tenant_id else None,
            model_id=str(self.model_id) if self.model_id else None,
            provider_kind=self.provider_kind,
            vendor_model_pattern=self.vendor_model_pattern,
        )


def _usd(name: str, amount: Usd | None) -> Decimal | None:
    try:
        return None if amount is None else Decimal(amount)
    except InvalidOperation:
        raise ValidationError({name: f"Not an amount of USD: {amount}."}) from None
