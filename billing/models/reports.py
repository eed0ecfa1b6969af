"""What a tenant used, day by day, and what of it Stripe was told."""

from decimal import Decimal

from django.db import models

from gateway.rows import Row
from tenants.models import Tenant


class MeterValue(models.TextChoices):
    """What the units are that Stripe bills."""

    SPEND = "spend", "micro-USD spent"
    REQUESTS = "requests", "requests"
    TOKENS = "tokens", "tokens"
    OVERAGE_REQUESTS = "overage_requests", "requests beyond the plan"
    OVERAGE_TOKENS = "overage_tokens", "tokens beyond the plan"


class UsageReport(Row):
    """One tenant's UTC day out of the ledger, and its UTC month up to and with that day.

    Made again as long as lines come; from ``closed_at`` on it is what Stripe is told of. What the plan included and
    where the day is reported hold as they were when the day ended.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="usage_reports")
    day = models.DateField()
    requests = models.BigIntegerField(default=0)
    tokens = models.BigIntegerField(default=0)
    spend_usd = models.DecimalField(max_digits=30, decimal_places=12, default=Decimal(0))
    unpriced = models.BigIntegerField(
        default=0, help_text="Calls whose price is not known, and which are not in spend."
    )
    month_requests = models.BigIntegerField(default=0)
    month_tokens = models.BigIntegerField(default=0)
    month_spend_usd = models.DecimalField(max_digits=30, decimal_places=12, default=Decimal(0))
    included_requests = models.BigIntegerField(null=True, help_text="In a month. Empty: nothing beyond is billed.")
    included_tokens = models.BigIntegerField(null=True, help_text="In a month. Empty: nothing beyond is billed.")
    overage_requests = models.BigIntegerField(default=0, help_text="Of this day, beyond what the month includes.")
    overage_tokens = models.BigIntegerField(default=0, help_text="Of this day, beyond what the month includes.")
    stripe_customer = models.CharField(max_length=255, blank=True, help_text="Whom it is billed to. Empty: nobody.")
    meter_value = models.CharField(max_length=20, choices=MeterValue.choices, blank=True)
    closed_at = models.DateTimeField(null=True, help_text="Empty: lines of this day may still come.")
    revised_at = models.DateTimeField(null=True, help_text="When a line came nevertheless.")

    class Meta:
        ordering = ("-day", "tenant__slug")
        constraints = (models.UniqueConstraint(fields=("tenant", "day"), name="one_usage_report_a_day"),)
        indexes = (models.Index(fields=("day",)),)

    def __str__(self) -> str:
        return f"{self.tenant} {self.day}"


class MeterEvent(Row):
    """What Stripe was told, or will be. Stripe adds the values up; their sum is that of the closed reports.

    ``sending`` is written before the call: whatever then happens, the same identifier is sent again, which Stripe
    refuses for a day when it has it. After that nobody can tell, and an operator decides.
    """

    class State(models.TextChoices):
        DUE = "due", "due"
        SENDING = "sending", "sending: not known to have arrived"
        SENT = "sent", "sent"
        UNCLEAR = "unclear", "unclear: look it up at Stripe"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="meter_events")
    stripe_customer = models.CharField(max_length=255)
    meter_value = models.CharField(max_length=20, choices=MeterValue.choices)
    day = models.DateField(help_text="The newest closed day that is in it.")
    revision = models.PositiveIntegerField(help_text="Above 1: a difference, of lines that came late.")
    value = models.BigIntegerField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.DUE)
    meter = models.CharField(max_length=100, blank=True, help_text="The event name it was last sent under.")
    tries = models.PositiveIntegerField(default=0)
    in_doubt_since = models.DateTimeField(null=True, help_text="When the first call began of which no answer came.")
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("-day", "-id")
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "meter_value", "day", "revision"), name="one_meter_event_a_revision"
            ),
            models.CheckConstraint(condition=models.Q(value__gt=0), name="a_meter_only_counts_up"),
        )
        indexes = (models.Index(fields=("state",)),)

    def __str__(self) -> str:
        return self.identifier

    @property
    def identifier(self) -> str:
        """The same however often it is sent; no other event has it."""
        return f"pointsman:{self.tenant_id}:{self.meter_value}:{self.day}:{self.revision}"
