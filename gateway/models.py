"""What can be reached and what was asked: providers, their keys and models, and the request log."""

import copy
import math
from functools import lru_cache

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models import Q

from audit.actions import Action
from audit.record import MASK, Actor, changes_between, record
from gateway import installation
from gateway.content_log import Content
from gateway.policy import VIRTUAL_NAMES
from gateway.providers import catalog
from gateway.providers.addresses import AddressGuard, ForbiddenAddress
from gateway.providers.outbound import Deadlines
from gateway.rows import Row, TenantForeignKey, new_id
from tenants import crypto
from tenants.models import ApiToken, Project, Tenant

CAPABILITIES = ("tools", "vision", "audio", "files", "json_schema", "reasoning", "streaming", "prefill")
MODALITIES = ("chat", "embedding", "image", "speech", "transcription", "moderation", "rerank")
LONGEST_SECRET = 4096
SHORTEST_SHOWN_SECRET = 16  # four characters of a shorter one would give too much of it away

provider_name_validator = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "Use letters, digits, dots, hyphens and underscores."
)
model_name_validator = RegexValidator(
    r"\A[!-~]+\Z", "Use visible ASCII characters without spaces, as clients have to send this name."
)


def validate_deadlines(deadlines: object) -> None:
    """Seconds by stage of a call, as :class:`gateway.providers.outbound.Deadlines` has them."""
    stages = Deadlines.__struct_fields__
    if not isinstance(deadlines, dict):
        raise ValidationError(f"Give seconds by stage; the stages are {', '.join(stages)}.")
    for stage, seconds in deadlines.items():
        if stage not in stages:
            raise ValidationError(f"There is no stage '{stage}'; the stages are {', '.join(stages)}.")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise ValidationError(f"{stage}: give a number of seconds greater than 0.")


@lru_cache(maxsize=64)
def _keyring(setting: str, purpose: str) -> crypto.Keyring:
    return crypto.Keyring.parse(setting, purpose=purpose)


def vendor_keyring() -> crypto.Keyring:
    """What providers' keys are encrypted with, by the master keys of the settings."""
    return _keyring(settings.MASTER_KEYS, crypto.VENDOR_KEY)


class Provider(Row):
    """A vendor account or address. Owned by a tenant or, without one, offered to all by the installation."""

    class OnDisconnect(models.TextChoices):
        CANCEL = "cancel", "stop the vendor's call at once"
        DRAIN = "drain", "let the vendor finish, for exact usage"

    class Status(models.TextChoices):
        UNKNOWN = "unknown", "never checked"
        OK = "ok", "ok"
        FAILING = "failing", "failing"

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="providers",
        help_text="Empty: offered to every tenant of this installation.",
    )
    name = models.CharField(max_length=63, validators=[provider_name_validator])
    kind = models.CharField(max_length=32, help_text="A row of the catalogue (gateway.providers.catalog).")
    base_url = models.CharField(  # not a URLField, which refuses single-word hosts such as http://ollama:11434
        max_length=500, blank=True, help_text="Empty: the catalogue's address for this kind."
    )
    enabled = models.BooleanField(default=True)
    on_disconnect = models.CharField(
        max_length=8,
        choices=OnDisconnect.choices,
        default=OnDisconnect.CANCEL,
        help_text="What happens to a running call when the caller hangs up.",
    )
    deadlines = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_deadlines],
        help_text="Seconds: connect, first_byte, first_token, between_chunks, total. Empty: defaults.",
    )
    region = models.CharField(max_length=32, blank=True)
    weight = models.PositiveSmallIntegerField(
        default=1, help_text="Its share of the requests to a model with several deployments. 0: only in reserve."
    )
    check_status = models.CharField(max_length=8, choices=Status.choices, default=Status.UNKNOWN, editable=False)
    check_message = models.CharField(max_length=500, blank=True, editable=False)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("tenant__slug", "name")
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "name"), nulls_distinct=False, name="provider_name_once_per_tenant"
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.kind not in catalog.KINDS:
            raise ValidationError({"kind": f"Not in the catalogue; known: {', '.join(catalog.KINDS)}."})
        if not self.effective_base_url:
            raise ValidationError({"base_url": f"{catalog.get(self.kind).label} needs the address to call."})
        try:
            AddressGuard(settings.ALLOWED_UPSTREAMS).check_url(self.effective_base_url)
        except ForbiddenAddress as exc:
            raise ValidationError({"base_url": str(exc)}) from None

    @property
    def effective_base_url(self) -> str:
        return self.base_url or catalog.get(self.kind).base_url or ""

    def active_key(self) -> "ProviderKey | None":
        return self.keys.filter(status=ProviderKey.Status.ACTIVE).first()

    @transaction.atomic
    def set_key(self, secret: str, actor: Actor) -> "ProviderKey":
        """Keep the vendor's secret, encrypted, for this provider at its present address; the previous key is
        revoked. Raises ValidationError."""
        _check_secret(secret)
        provider = self._locked()
        provider.revoke_active_key(actor)
        keyring = vendor_keyring()
        key = ProviderKey(
            tenant=provider.tenant,
            provider=provider,
            master_key_number=keyring.current_id,
            base_url=provider.effective_base_url,
            last_four=secret[-4:] if len(secret) >= SHORTEST_SHOWN_SECRET else "",
        )
        key.ciphertext = keyring.encrypt(secret.encode(), key.bound_to())
        key.save(force_insert=True)
        record(actor, Action.PROVIDER_KEY_SET, provider, tenant=provider.tenant, changes={"key": [None, MASK]})
        return key

    @transaction.atomic
    def change_base_url(self, url: str, actor: Actor) -> None:
        """Call the vendor at another address ("": the catalogue's). The key was given for the old one, so it is
        revoked. Raises ValidationError."""
        provider = self._locked()
        before = copy.copy(provider)
        provider.base_url = url
        provider.full_clean()
        if changes := changes_between(before, provider):
            provider.save(update_fields=("base_url", "updated_at"))
            if provider.effective_base_url != before.effective_base_url:
                provider.revoke_active_key(actor)
            record(actor, Action.PROVIDER_CHANGED, provider, tenant=provider.tenant, changes=changes)
        self.base_url = url

    def _locked(self) -> "Provider":
        """This row as it is in the database, kept so until the transaction ends."""
        return Provider.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=self.pk)

    def revoke_active_key(self, actor: Actor) -> None:
        """Forget the key, if there is one."""
        if key := self.active_key():
            key.revoke(actor)


class ProviderKey(Row):
    """A vendor secret, encrypted for exactly this row and base URL: changing the URL clears the key."""

    class Status(models.TextChoices):
        ACTIVE = "active", "active"
        REVOKED = "revoked", "revoked"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, null=True, blank=True, editable=False)
    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="keys")
    ciphertext = models.BinaryField(editable=False)
    master_key_number = models.PositiveSmallIntegerField(editable=False)
    base_url = models.CharField(max_length=500, editable=False)
    last_four = models.CharField(max_length=4, editable=False)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.ACTIVE, editable=False)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("provider",), condition=Q(status="active"), name="one_active_key_per_provider"
            ),
        )

    def __str__(self) -> str:
        return f"…{self.last_four}"

    def bound_to(self) -> bytes:
        """What the ciphertext is tied to: read in another row, or for another address, it does not open."""
        return crypto.aad(self.tenant_id, self.pk, self.provider.effective_base_url)

    def reveal(self) -> str:
        """The secret. Raises tenants.crypto.DecryptionFailed; a revoked key has none any more."""
        try:
            secret = vendor_keyring().decrypt(bytes(self.ciphertext), self.bound_to())
        except crypto.UnknownKey:
            if not installation.is_generated("MASTER_KEYS"):
                raise
            # Rotated since this process started: the new master key is in the file with the others.
            settings.MASTER_KEYS = installation.secret("MASTER_KEYS")
            secret = vendor_keyring().decrypt(bytes(self.ciphertext), self.bound_to())
        return secret.decode()

    @transaction.atomic
    def revoke(self, actor: Actor) -> None:
        """Never use this key again, and forget the secret. Does nothing to one that is revoked already."""
        key = ProviderKey.objects.select_for_update(of=("self",)).select_related("provider", "tenant").get(pk=self.pk)
        if key.status == self.Status.ACTIVE:
            key.status, key.ciphertext = self.Status.REVOKED, b""
            key.save(update_fields=("status", "ciphertext", "updated_at"))
            record(actor, Action.PROVIDER_KEY_REVOKED, key.provider, tenant=key.tenant, changes={"key": [MASK, None]})
        self.status, self.ciphertext = key.status, key.ciphertext


class Model(Row):
    """A name callers may ask for and the provider that serves it; more of them are its deployments."""

    class Balancing(models.TextChoices):
        ORDERED = "ordered", "in order: the next one when one fails"
        WEIGHTED = "weighted", "by weight"
        LEAST_LATENCY = "least_latency", "the fastest first"

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="models",
        help_text="Empty: offered to every tenant of this installation.",
    )
    name = models.CharField(max_length=200, validators=[model_name_validator])
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="models")
    vendor_model = models.CharField(
        max_length=200, validators=[model_name_validator], help_text="What the vendor calls it."
    )
    enabled = models.BooleanField(default=True)
    capabilities = ArrayField(
        models.CharField(max_length=16, choices=[(name, name) for name in CAPABILITIES]),
        default=list,
        blank=True,
        help_text="Empty: not known, so nothing is refused before the vendor has its say.",
    )
    modality = models.CharField(max_length=16, choices=[(name, name) for name in MODALITIES], default="chat")
    context_window = models.PositiveIntegerField(null=True, blank=True, help_text="Tokens, prompt and answer.")
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    fallbacks = ArrayField(
        models.CharField(max_length=200),
        default=list,
        blank=True,
        help_text="Names of models tried next, in order, when this one fails.",
    )
    balancing = models.CharField(
        max_length=16,
        choices=Balancing.choices,
        default=Balancing.ORDERED,
        db_default=Balancing.ORDERED,
        help_text="How its deployments share the requests.",
    )
    routed = models.BooleanField(
        default=True, db_default=True, help_text="Whether auto, fast, cheap and best may choose it."
    )
    hedging = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Ask a second target as well when the first is slower than usual; the first token wins.",
    )
    deadlines = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_deadlines],
        help_text="Seconds: connect, first_byte, first_token, between_chunks, total. Empty: the provider's.",
    )

    class Meta:
        ordering = ("tenant__slug", "name")
        constraints = (
            models.UniqueConstraint(fields=("tenant", "name"), nulls_distinct=False, name="model_name_once_per_tenant"),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.provider_id and self.provider.tenant_id not in (None, self.tenant_id):
            raise ValidationError({"provider": "This provider belongs to another tenant."})
        if self.name in VIRTUAL_NAMES:
            raise ValidationError({"name": f"'{self.name}' lets the gateway choose; an alias may redefine it."})
        if self.name in self.fallbacks:
            raise ValidationError({"fallbacks": "A model cannot be its own fallback."})

    def ways(self) -> "list[Deployment]":
        """Its deployments, its own provider first: that one has no row, and the model's id."""
        own = Deployment(
            id=self.pk, tenant_id=self.tenant_id, model=self, provider=self.provider, vendor_model=self.vendor_model
        )
        return [own, *self.deployments.all()]


class Deployment(Row):
    """Another way to the same model: a second key or region of its vendor, or another vendor that has it. The model's
    own provider is its first deployment."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True, editable=False)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="deployments")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="deployments")
    vendor_model = models.CharField(
        max_length=200,
        blank=True,
        validators=[model_name_validator],
        help_text="What this vendor calls it. Empty: as the model's own vendor does.",
    )
    weight = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Its share of the requests. Empty: its provider's. 0: only when the others fail.",
    )
    position = models.PositiveSmallIntegerField(default=0, help_text="Its place where they are tried in order.")

    class Meta:
        ordering = ("position", "id")
        constraints = (
            models.UniqueConstraint(fields=("model", "provider", "vendor_model"), name="deployment_once_per_model"),
        )

    def __str__(self) -> str:
        return f"{self.model.name} at {self.provider.name}"

    @property
    def effective_vendor_model(self) -> str:
        return self.vendor_model or self.model.vendor_model

    def clean(self) -> None:
        self.tenant = self.model.tenant
        if self.provider_id and self.provider.tenant_id not in (None, self.model.tenant_id):
            raise ValidationError({"provider": "This provider belongs to another tenant."})


class Alias(Row):
    """Another name for a model, as a tenant's callers know it."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=200, validators=[model_name_validator])
    model_name = models.CharField(max_length=200)

    class Meta:
        verbose_name_plural = "aliases"
        constraints = (models.UniqueConstraint(fields=("tenant", "name"), name="alias_name_once_per_tenant"),)

    def __str__(self) -> str:
        return f"{self.name} → {self.model_name}"


class RequestLog(models.Model):
    """One row a request, partitioned by month on its UUIDv7. Written off the caller's path; never the truth
    about money (that is billing's ledger)."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING, related_name="requests", db_constraint=False)
    project = TenantForeignKey(Project, on_delete=models.DO_NOTHING, related_name="requests")
    token = TenantForeignKey(ApiToken, on_delete=models.DO_NOTHING, related_name="requests")
    started_at = models.DateTimeField(db_index=True)
    dialect = models.CharField(max_length=24)
    streamed = models.BooleanField()
    requested_model = models.CharField(max_length=200)
    model_name = models.CharField(max_length=200, blank=True, help_text="The model that answered.")
    provider_name = models.CharField(max_length=63, blank=True)
    status = models.PositiveSmallIntegerField(help_text="HTTP status of the answer; 499: the caller hung up.")
    error_code = models.CharField(max_length=64, blank=True)
    finish_reason = models.CharField(max_length=24, blank=True)
    fallback_used = models.BooleanField(default=False)
    attempts = models.PositiveSmallIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=24, decimal_places=12, null=True)
    latency_ms = models.FloatField(help_text="From the last byte of the request to the last byte of the answer.")
    first_token_ms = models.FloatField(null=True)
    overhead_ms = models.FloatField(help_text="Our own part of the latency.")
    end_user = models.CharField(max_length=200, blank=True)
    tags = ArrayField(models.CharField(max_length=64), default=list)
    client_ip = models.GenericIPAddressField(null=True)

    class Meta:
        verbose_name = "request"
        ordering = ("-id",)

    def __str__(self) -> str:
        return str(self.id)


class RequestContent(models.Model):
    """Prompt and answer of one request, encrypted, kept only where the tenant asks for it."""

    request_id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING, db_constraint=False)
    ciphertext = models.BinaryField(editable=False)
    master_key_number = models.PositiveSmallIntegerField(editable=False)

    class Meta:
        verbose_name = "request content"
        verbose_name_plural = "request contents"

    def __str__(self) -> str:
        return str(self.request_id)

    @transaction.atomic
    def reveal(self, actor: Actor) -> Content:
        """What was asked and answered; that somebody has read it is in the audit trail of its tenant.

        Raises tenants.crypto.DecryptionFailed.
        """
        keyring = _keyring(settings.MASTER_KEYS, crypto.content_purpose(self.tenant_id))
        content = Content.unseal(keyring, str(self.tenant_id), str(self.pk), bytes(self.ciphertext))
        record(actor, Action.CONTENT_READ, self, tenant=self.tenant)
        return content


def _check_secret(secret: str) -> None:
    """A vendor's key travels in a header."""
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ValidationError({"secret": "A key consists of printable ASCII characters without spaces."})
    if len(secret) > LONGEST_SECRET:
        raise ValidationError({"secret": f"A key has at most {LONGEST_SECRET} characters."})
