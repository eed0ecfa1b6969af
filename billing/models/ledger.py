"""What was spent: the ledger."""

from datetime import timedelta
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from billing.models.prices import PriceVersion
from gateway.rows import TenantForeignKey, new_id
from tenants.models import ApiToken, Project, Tenant


class GatewayProcess(models.Model):
    """A process that opens attempts. One whose heartbeat has stopped no longer settles what it left open."""

    LOST_AFTER: ClassVar[timedelta] = timedelta(seconds=30)  # without a heartbeat; half a dozen of them

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    label = models.CharField(max_length=200, help_text="Host and process number, for operators.")
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "gateway processes"
        ordering = ("-started_at",)

    def __str__(self) -> str:
        return self.label


class Attempt(models.Model):
    """The intent to call a vendor, committed before the first byte goes out. Append-only, partitioned by
    month on its UUIDv7."""

    class Purpose(models.TextChoices):
        SERVE = "serve"
        RETRY = "retry"
        FALLBACK = "fallback"
        RESCUE = "rescue"
        HEDGE = "hedge"
        SHADOW = "shadow"
        JUDGE = "judge"
        REPLAY = "replay"
        CLASSIFY = "classify"
        EMBED = "embed"
        GUARD = "guard"
        TEST = "test"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    request_id = models.UUIDField(db_index=True)
    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        related_name="attempts",
        help_text="Empty: the installation tried out a provider of its own.",
    )
    project = TenantForeignKey(Project, on_delete=models.PROTECT, null=True, related_name="attempts")
    token = TenantForeignKey(ApiToken, on_delete=models.PROTECT, null=True, related_name="attempts")
    end_user = models.CharField(max_length=200, blank=True)
    tags = models.JSONField(default=list)
    purpose = models.CharField(max_length=12, choices=Purpose.choices)
    provider = models.ForeignKey("gateway.Provider", on_delete=models.PROTECT, related_name="attempts")
    provider_key = models.ForeignKey("gateway.ProviderKey", on_delete=models.PROTECT, null=True)
    model = models.ForeignKey(
        "gateway.Model",
        on_delete=models.PROTECT,
        null=True,
        related_name="attempts",
        help_text="Empty: a test of a model the vendor has, not configured here.",
    )
    vendor_model = models.CharField(max_length=200)
    price_version = models.ForeignKey(PriceVersion, on_delete=models.PROTECT, null=True)
    task_type = models.CharField(max_length=32, blank=True, db_default="")
    complexity = models.CharField(max_length=16, blank=True, db_default="")
    process_id = models.UUIDField()
    held_usd = models.DecimalField(max_digits=24, decimal_places=12, null=True)
    discount_bp = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Taken off its price, in hundredths of a per cent."
    )
    held_tokens = models.BigIntegerField(null=True)
    held_requests = models.PositiveSmallIntegerField(default=0, db_default=0)
    budget_periods = ArrayField(
        models.UUIDField(), default=list, db_default=[], help_text="The periods of the budgets that hold for it."
    )
    started_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return str(self.id)


class Settlement(models.Model):
    """How an attempt ended and what it cost: written once per attempt (its key is the attempt's)."""

    class Outcome(models.TextChoices):
        SETTLED = "settled"
        FAILED = "failed"
        CANCELLED = "cancelled"
        ABANDONED = "abandoned"

    class UsageSource(models.TextChoices):
        VENDOR = "vendor"
        COUNTED = "counted"
        ESTIMATED = "estimated"

    attempt = models.OneToOneField(
        Attempt, on_delete=models.PROTECT, primary_key=True, related_name="settlement", editable=False
    )
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, related_name="settlements")
    outcome = models.CharField(max_length=12, choices=Outcome.choices)
    input_tokens = models.BigIntegerField(default=0)
    cached_input_tokens = models.BigIntegerField(default=0)
    cache_write_5m_tokens = models.BigIntegerField(default=0)
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    audio_input_tokens = models.BigIntegerField(default=0)
    audio_output_tokens = models.BigIntegerField(default=0)
    usage_source = models.CharField(max_length=12, choices=UsageSource.choices)
    service_tier = models.CharField(
        max_length=12,
        blank=True,
        default="",
        db_default="",
        help_text="In which of its tiers the vendor served the call. Empty: the standard one.",
    )
    cost_usd = models.DecimalField(
        max_digits=24, decimal_places=12, null=True, help_text="Empty: the price is unknown, which is not 0."
    )
    price_version = models.ForeignKey(PriceVersion, on_delete=models.PROTECT, null=True)
    saved_usd = models.DecimalField(max_digits=24, decimal_places=12, default=0)
    status_code = models.PositiveSmallIntegerField(null=True, help_text="What the vendor answered.")
    error_code = models.CharField(max_length=64, blank=True)
    first_token_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField()
    settled_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("-attempt",)

    def __str__(self) -> str:
        return f"{self.outcome} {self.attempt_id}"


class Adjustment(models.Model):
    """A re-rate, credit or reconciliation of one attempt: a line of its own, never an update of one."""

    class Reason(models.TextChoices):
        REPRICE = "reprice"
        CREDIT = "credit"
        RECONCILIATION = "reconciliation"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="adjustments")
    attempt = models.ForeignKey(Attempt, on_delete=models.PROTECT, related_name="adjustments")
    reason = models.CharField(max_length=16, choices=Reason.choices)
    amount_usd = models.DecimalField(max_digits=24, decimal_places=12)
    price_version = models.ForeignKey(PriceVersion, on_delete=models.PROTECT, null=True)
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.reason} {self.amount_usd}"
