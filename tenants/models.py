"""Who there is: tenants, their projects and members, and the API tokens that stand for them."""

import zoneinfo
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models, transaction
from django.db.models import Q
from django.dispatch import Signal
from django.utils import timezone

from audit.actions import Action
from audit.record import Actor, record
from gateway.rows import Row, TenantForeignKey, new_id
from tenants import roles, tokens

slug_validator = RegexValidator(
    r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z",
    "Use up to 63 lower-case letters, digits and inner hyphens.",
)


token_replaced = Signal()
"""A token has taken another's place (``before``, ``after``, ``actor``), and what holds for the one is to hold for the
other. Sent in the transaction that replaces it."""


member_joins = Signal()
"""Somebody (``user``) is about to become a member of ``tenant``. Whoever objects raises ValidationError."""


content_is_kept = Signal()
"""``tenant`` is about to have its prompts and answers kept. Whoever objects raises ValidationError."""


class EmailUserManager(UserManager["User"]):
    """Accounts are known by e-mail address; Django's user name does not exist here."""

    def create_user(self, email: str, password: str | None = None, **extra: Any) -> "User":  # type: ignore[override]
        user = self.model(email=self.normalize_email(email), **extra)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **extra: Any) -> "User":  # type: ignore[override]
        return self.create_user(email, password, is_staff=True, is_superuser=True, **extra)


class User(AbstractUser):
    """A person: an operator (``is_staff``) of the installation, a member of tenants, or both."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    username = None  # type: ignore[assignment]
    email = models.EmailField(unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects: ClassVar[EmailUserManager] = EmailUserManager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.email


class Tenant(Row):
    """An organisation whose data no other tenant can see, use or infer.

    ``policy_epoch`` is raised by the database whenever anything changes that the hot path remembers about
    this tenant (triggers of ``gateway.schema``); admission compares it, so a revoked token or a changed
    model acts on the very next request of every process.
    """

    slug = models.CharField(max_length=63, unique=True, validators=[slug_validator])
    name = models.CharField(max_length=200, blank=True)
    enabled = models.BooleanField(default=True, help_text="Off: every token of this tenant is refused.")
    time_zone = models.CharField(max_length=64, default="UTC", help_text="Where its calendar budgets roll over.")
    log_content = models.BooleanField(
        default=False, help_text="Keep prompts and answers (encrypted) with the request log."
    )
    policy_epoch = models.BigIntegerField(default=1, editable=False)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        if self.time_zone not in zoneinfo.available_timezones():
            raise ValidationError({"time_zone": "Not a time zone; they are named like Europe/Berlin."})
        if self.log_content and not Tenant.objects.filter(pk=self.pk, log_content=True).exists():
            content_is_kept.send(Tenant, tenant=self)


class Project(Row):
    """A part of a tenant with its own tokens, spend and members."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="projects")
    slug = models.CharField(max_length=63, validators=[slug_validator])
    name = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("tenant__slug", "slug")
        constraints = (
            models.UniqueConstraint(fields=("tenant", "slug"), name="project_slug_once_per_tenant"),
            models.UniqueConstraint(fields=("tenant", "id"), name="project_tenant_id"),
        )

    def __str__(self) -> str:
        return self.slug


class Membership(Row):
    """A person's role in a tenant, or in one of its projects only."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=[(role.value, role.value) for role in roles.Role])
    project = TenantForeignKey(
        Project,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="memberships",
        help_text="Empty: the role holds in the whole tenant.",
    )

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "user", "project"), nulls_distinct=False, name="one_role_per_member_and_project"
            ),
        )

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"

    def clean(self) -> None:
        _refuse_foreign_project(self)
        if self._state.adding:
            member_joins.send(Membership, tenant=self.tenant, user=self.user)


class ApiToken(Row):
    """A credential of SDK clients. The text is shown once; stored is an HMAC under a numbered pepper."""

    class Scope(models.TextChoices):
        INFERENCE = "inference", "inference"
        MANAGEMENT = "management", "management"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="tokens")
    project = TenantForeignKey(Project, on_delete=models.PROTECT, related_name="tokens")
    name = models.CharField(max_length=200)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    pepper_number = models.PositiveSmallIntegerField(editable=False)
    public_id = models.CharField(max_length=32, blank=True, editable=False, help_text="The visible part of gw_<id>_...")
    last_four = models.CharField(max_length=4, editable=False)
    scopes = ArrayField(
        models.CharField(max_length=16, choices=Scope.choices), default=list, help_text="What it may be used for."
    )
    allowed_models = ArrayField(
        models.CharField(max_length=200),
        default=list,
        blank=True,
        help_text='Names or patterns ("gpt-*"); "*" allows all, empty allows none.',
    )
    allowed_cidrs = ArrayField(
        models.CharField(max_length=43), default=list, blank=True, help_text="Empty: usable from anywhere."
    )
    requests_per_minute = models.PositiveIntegerField(default=0, help_text="0: no limit of its own.")
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API token"
        verbose_name_plural = "API tokens"
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "id"), name="token_tenant_id"),
            models.UniqueConstraint(
                fields=("tenant", "project", "name"),
                condition=Q(revoked_at__isnull=True),
                name="live_token_name_once_per_project",
                violation_error_message="This project has a token of that name already; revoke it or choose another.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        _refuse_foreign_project(self)
        if not all(name.strip() for name in self.allowed_models):
            raise ValidationError({"allowed_models": "A name or pattern must not be empty."})
        try:
            self.allowed_cidrs = [str(ip_network(cidr, strict=False)) for cidr in self.allowed_cidrs]
        except ValueError as exc:
            raise ValidationError({"allowed_cidrs": f"Not a network: {exc}."}) from None

    @classmethod
    @transaction.atomic
    def issue(
        cls,
        *,
        tenant: Tenant,
        project: Project,
        name: str,
        actor: Actor,
        scopes: Iterable[str] = (Scope.INFERENCE,),
        allowed_models: Iterable[str] = ("*",),
        allowed_cidrs: Iterable[str] = (),
        requests_per_minute: int = 0,
        expires_at: datetime | None = None,
        value: str | None = None,
    ) -> tuple["ApiToken", str]:
        """A new token and its text, which is nowhere to be had again. Raises ValidationError.

        ``value`` brings a text along instead of having one minted (see :func:`tenants.tokens.acceptable_value`);
        it must never have been a token here before, revoked ones included.
        """
        minted = _mint(value)
        token = cls(
            tenant=tenant,
            project=project,
            name=name,
            digest=minted.digest,
            pepper_number=minted.pepper_id,
            public_id=minted.public_id,
            last_four=minted.last_four,
            scopes=list(scopes),
            allowed_models=list(allowed_models),
            allowed_cidrs=list(allowed_cidrs),
            requests_per_minute=requests_per_minute,
            expires_at=expires_at,
            created_by_id=actor.user.pk if actor.user else None,
        )
        token.full_clean()
        token.save(force_insert=True)
        record(actor, Action.TOKEN_ISSUED, token, tenant=tenant, changes=token._terms())
        return token, minted.text

    @transaction.atomic
    def revoke(self, actor: Actor) -> None:
        """Refuse this token from the very next request on. Does nothing to one that is revoked already."""
        current = ApiToken.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=self.pk)
        if current.revoked_at is None:
            current.revoked_at = timezone.now()
            current.save(update_fields=("revoked_at", "updated_at"))
            record(actor, Action.TOKEN_REVOKED, current, tenant=current.tenant)
        self.revoked_at = current.revoked_at

    @transaction.atomic
    def rotate(self, actor: Actor) -> tuple["ApiToken", str]:
        """Replace this token by a new one on the same terms; the old one stops working at once.

        Returns the new token and its text. Raises ValidationError for a token that works no more.
        """
        self.refresh_from_db()
        if self.status != "active":
            raise ValidationError(f"This token is {self.status}; issue a new one instead.")
        self.revoke(actor)
        new, text = ApiToken.issue(
            tenant=self.tenant, project=self.project, name=self.name, actor=actor, expires_at=self.expires_at,
            **{field: getattr(self, field) for field in _COPIED_TERMS},
        )  # fmt: skip
        changes = {"replaced": [f"…{self.last_four}", f"…{new.last_four}"]}
        record(actor, Action.TOKEN_ROTATED, new, tenant=self.tenant, changes=changes)
        token_replaced.send(ApiToken, before=self, after=new, actor=actor)
        return new, text

    @property
    def status(self) -> str:
        if self.revoked_at:
            return "revoked"
        if self.expires_at and self.expires_at <= timezone.now():
            return "expired"
        return "active"

    def _terms(self) -> dict[str, list[Any]]:
        """What a new token may do, as the audit trail keeps it."""
        terms = {field: getattr(self, field) for field in (*_COPIED_TERMS, "expires_at")}
        return {"project": [None, self.project.slug]} | {field: [None, value] for field, value in terms.items()}


_COPIED_TERMS = ("scopes", "allowed_models", "allowed_cidrs", "requests_per_minute")


@lru_cache(maxsize=1)
def _peppers(setting: str) -> tokens.Peppers:
    return tokens.Peppers.parse(setting)


def _mint(value: str | None) -> tokens.MintedToken:
    peppers = _peppers(settings.TOKEN_PEPPERS)
    if value is None:
        return tokens.mint(peppers)
    try:
        adopted = tokens.adopt(value, peppers)
    except ValueError as exc:
        raise ValidationError({"value": f"{str(exc).capitalize()}."}) from None
    digests = [digest for _, digest in peppers.digests(value)]
    if ApiToken.objects.filter(digest__in=digests).exists():
        raise ValidationError({"value": "This value is, or has been, a token already."})
    return adopted


def _refuse_foreign_project(row: Membership | ApiToken) -> None:
    if row.project_id and row.project.tenant_id != row.tenant_id:
        raise ValidationError({"project": "This project belongs to another tenant."})
