"""Who is told what, and whether it arrived."""

from collections.abc import Iterable
from functools import lru_cache
from typing import ClassVar, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import models, transaction
from django.db.models import Q

from audit.actions import Action
from audit.record import Actor, record
from billing.models.budgets import Budget, BudgetPeriod
from billing.models.plans import Subscription
from gateway import installation
from gateway.providers.addresses import AddressGuard, ForbiddenAddress
from gateway.rows import Row, TenantForeignKey, new_id
from tenants import crypto
from tenants.models import Project, Tenant

CHANNEL_SECRET: Final = "alert-channel"  # noqa: S105 - the name of a purpose
"""The purpose under which the secrets that sign webhooks are encrypted."""
LONGEST_CHANNEL_SECRET: Final = 1000


@lru_cache(maxsize=64)
def _keyring(setting: str) -> crypto.Keyring:
    return crypto.Keyring.parse(setting, purpose=CHANNEL_SECRET)


def channel_keyring() -> crypto.Keyring:
    """What channels' secrets are encrypted with, by the master keys of the settings."""
    return _keyring(settings.MASTER_KEYS)


class AlertChannel(Row):
    """Where alerts go: addresses of e-mail, a webhook that is signed, or one that Slack understands."""

    class Kind(models.TextChoices):
        EMAIL = "email", "e-mail"
        WEBHOOK = "webhook", "webhook"
        SLACK = "slack", "Slack-compatible webhook"

    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, null=True, blank=True, help_text="Empty: the operators' own."
    )
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    address = models.CharField(max_length=1000, help_text="An address (several: with commas), or the webhook's URL.")
    secret_ciphertext = models.BinaryField(default=b"", editable=False)
    master_key_number = models.PositiveSmallIntegerField(default=0, editable=False)
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("tenant__slug", "name")
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "name"), nulls_distinct=False, name="channel_name_once_per_tenant"
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.kind == self.Kind.EMAIL:
            self._refuse_bad_addresses()
            return
        self._refuse_beyond_plan()
        try:
            AddressGuard(settings.ALLOWED_UPSTREAMS).check_url(self.address)
        except ForbiddenAddress as exc:
            raise ValidationError({"address": str(exc)}) from None

    def _refuse_beyond_plan(self) -> None:
        """A webhook that a smaller plan has silenced can still be seen to, and be switched off."""
        webhooks = AlertChannel.objects.exclude(kind=self.Kind.EMAIL)
        if self.enabled and not webhooks.filter(pk=self.pk, enabled=True).exists():
            Subscription.refuse_without_feature(self.tenant, "webhooks", "kind")

    def recipients(self) -> list[str]:
        """The addresses of an e-mail channel."""
        return [address.strip() for address in self.address.split(",")]

    @property
    def has_secret(self) -> bool:
        return bool(self.secret_ciphertext)

    def set_secret(self, secret: str) -> None:
        """Encrypt what this channel's messages are signed with, for this row at its present address; "" forgets it.

        Like a password, it is kept once the row is saved. Raises ValidationError.
        """
        if len(secret) > LONGEST_CHANNEL_SECRET:
            raise ValidationError({"secret": f"A secret has at most {LONGEST_CHANNEL_SECRET} characters."})
        keyring = channel_keyring()
        self.secret_ciphertext = keyring.encrypt(secret.encode(), self.bound_to()) if secret else b""
        self.master_key_number = keyring.current_id if secret else 0

    def reveal_secret(self) -> str:
        """What messages are signed with; "" where none is set. Raises tenants.crypto.DecryptionFailed."""
        if not self.has_secret:
            return ""
        ciphertext = bytes(self.secret_ciphertext)
        try:
            secret = channel_keyring().decrypt(ciphertext, self.bound_to())
        except crypto.UnknownKey:
            if not installation.is_generated("MASTER_KEYS"):
                raise
            # Rotated since this process started: the new master key is in the file with the others.
            settings.MASTER_KEYS = installation.secret("MASTER_KEYS")
            secret = channel_keyring().decrypt(ciphertext, self.bound_to())
        return secret.decode()

    def change_address(self, address: str) -> None:
        """Send elsewhere from the next save on. The secret was agreed with the old address, so it is forgotten."""
        if address != self.address:
            self.address = address
            self.set_secret("")

    def bound_to(self) -> bytes:
        """What the secret's ciphertext is tied to: in another row, or for another address, it does not open."""
        return crypto.aad(self.tenant_id, self.pk, self.address)

    def _refuse_bad_addresses(self) -> None:
        for address in self.recipients():
            try:
                validate_email(address)
            except ValidationError:
                raise ValidationError({"address": f"Not an e-mail address: '{address}'."}) from None


class AlertRule(Row):
    """When somebody is told. Budgets raise alerts at their thresholds without a rule; one may add others."""

    class Kind(models.TextChoices):
        BUDGET = "budget", "budget threshold"
        SPEND_ANOMALY = "spend_anomaly", "unusual spend"
        ERROR_RATE = "error_rate", "share of failed requests, per cent"
        LATENCY_P95 = "latency_p95", "95th percentile of latency, ms"
        NO_TRAFFIC = "no_traffic", "no requests"
        BREAKER_OPEN = "breaker_open", "a circuit breaker is open"
        PRICE_UNKNOWN = "price_unknown", "calls without a known price"
        QUALITY_DROP = "quality_drop", "a model's answers have changed"

    MEASURED: ClassVar[frozenset[str]] = frozenset({"error_rate", "latency_p95"})  # say nothing without a threshold

    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, null=True, blank=True, help_text="Empty: watches the whole installation."
    )
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    threshold = models.DecimalField(max_digits=24, decimal_places=12, null=True, blank=True)
    window_minutes = models.PositiveIntegerField(default=60)
    cooldown_minutes = models.PositiveIntegerField(default=60, help_text="Not told again within this time.")
    least_requests = models.PositiveIntegerField(default=20, help_text="A rate of fewer requests says nothing.")
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, null=True, blank=True, related_name="rules")
    project = TenantForeignKey(Project, on_delete=models.CASCADE, null=True, blank=True)
    model_name = models.CharField(max_length=200, blank=True)
    channels = models.ManyToManyField(AlertChannel, blank=True, related_name="rules")
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ("tenant__slug", "name")
        constraints = (
            models.UniqueConstraint(fields=("tenant", "name"), nulls_distinct=False, name="rule_name_once_per_tenant"),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if (self.budget_id is not None) != (self.kind == self.Kind.BUDGET):
            raise ValidationError({"budget": "Goes with the kind 'budget', and with no other."})
        for field in ("budget", "project"):
            row = getattr(self, field)
            if row is not None and row.tenant_id != self.tenant_id:
                raise ValidationError({field: f"This {field} belongs to another tenant."})
        if self.kind in self.MEASURED and self.threshold is None:
            raise ValidationError({"threshold": "Say from which value on it is told."})
        if self.threshold is not None and self.threshold < 0:
            raise ValidationError({"threshold": "It is at least 0."})
        if not self.window_minutes:
            raise ValidationError({"window_minutes": "It is at least a minute."})

    def refuse_foreign_channels(self, channels: Iterable[AlertChannel]) -> None:
        """Raises ValidationError for a channel of somebody else."""
        for channel in channels:
            if channel.tenant_id != self.tenant_id:
                raise ValidationError({"channels": f"The channel '{channel}' belongs to another tenant."})

    @transaction.atomic
    def set_channels(self, channels: Iterable[AlertChannel], actor: Actor) -> bool:
        """Tell these and no others; returns whether that is a change.

        Raises ValidationError for a channel of somebody else.
        """
        wanted = list(channels)
        self.refuse_foreign_channels(wanted)
        before = sorted(channel.name for channel in self.channels.all())
        after = sorted(channel.name for channel in wanted)
        if before == after:
            return False
        self.channels.set(wanted)
        record(actor, Action.ALERT_RULE_CHANGED, self, tenant=self.tenant, changes={"channels": [before, after]})
        return True


class Alert(models.Model):
    """Something that was told: opened once for each crossing, and resolved when it is over.

    ``occasion`` names the crossing (a budget's period and threshold, a rule's window), so that any number of workers
    open it once.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True)
    rule = models.ForeignKey(AlertRule, on_delete=models.SET_NULL, null=True, related_name="alerts")
    budget_period = models.ForeignKey(BudgetPeriod, on_delete=models.SET_NULL, null=True, related_name="alerts")
    kind = models.CharField(max_length=16, choices=AlertRule.Kind.choices)
    occasion = models.CharField(max_length=200, unique=True)
    message = models.CharField(max_length=1000)
    facts = models.JSONField(default=dict)
    opened_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-opened_at",)
        indexes = (models.Index(fields=("rule",), condition=Q(resolved_at=None), name="open_alerts_by_rule"),)

    def __str__(self) -> str:
        return self.message


class AlertDelivery(models.Model):
    """One message to one channel, tried until it arrives or is given up. "sent" means that the other side took it."""

    class Event(models.TextChoices):
        OPENED = "opened", "opened"
        RESOLVED = "resolved", "resolved"

    class Status(models.TextChoices):
        PENDING = "pending", "pending"
        SENT = "sent", "sent"
        FAILED = "failed", "failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True)
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=8, choices=Event.choices, default=Event.OPENED)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.PENDING)
    tries = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created_at",)
        verbose_name_plural = "alert deliveries"
        constraints = (
            models.UniqueConstraint(fields=("alert", "channel", "event"), name="one_delivery_per_channel_and_event"),
        )

    def __str__(self) -> str:
        return f"{self.alert} to {self.channel}"
