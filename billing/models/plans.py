"""Plans: what is included in a month, which features may be used, and for how long things are kept."""

import copy
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction

from audit.actions import Action
from audit.record import Actor, changes_between, record
from billing.features import EVERYTHING, FEATURES, Entitlement, Feature
from billing.models.budgets import Budget
from gateway.rows import Row
from tenants.models import Membership, Tenant, User


def validate_features(names: Sequence[str]) -> None:
    """Raises ValidationError for a name that is no feature's."""
    if unknown := sorted(set(names) - set(FEATURES)):
        raise ValidationError(f"Not a feature: {', '.join(unknown)}. There are {', '.join(FEATURES)}.")


class Plan(Row):
    """A tier that tenants can be on, as data: what is included in a month, and for how long things are kept."""

    name = models.CharField(max_length=63, unique=True)
    monthly_requests = models.PositiveBigIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    monthly_tokens = models.PositiveBigIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    overage = models.BooleanField(default=False, help_text="Serve what goes beyond, and bill it. Off: refuse it.")
    seats = models.PositiveIntegerField(null=True, blank=True, help_text="Members. Empty: no limit.")
    retention_days = models.PositiveIntegerField(default=90, help_text="How long request logs are kept.")
    audit_retention_days = models.PositiveIntegerField(
        default=365, db_default=365, help_text="How long audit events are kept. 0: for ever."
    )
    features = ArrayField(
        models.CharField(max_length=32),
        null=True,
        blank=True,
        validators=[validate_features],
        help_text="Those that may be used. Empty: all of them.",
    )

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    @transaction.atomic
    def sync_quotas(self, actor: Actor) -> list[Budget]:
        """Make the quotas of every tenant on this plan agree with it; returns those that this changed."""
        subscriptions = self.subscriptions.select_related("tenant", "plan")
        return [budget for subscription in subscriptions for budget in subscription.sync_quotas(actor)]


class Subscription(Row):
    """The plan a tenant is on, and what was agreed differently with it."""

    OVERRIDABLE: ClassVar[tuple[str, ...]] = (
        "monthly_requests", "monthly_tokens", "overage", "seats", "retention_days", "audit_retention_days", "features",
    )  # fmt: skip

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="subscription")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="subscriptions")
    overrides = models.JSONField(default=dict, blank=True, help_text='What differs from the plan: {"seats": 10}.')
    discount_percent = models.DecimalField(
        max_digits=5,
        decimal_places=2,
        default=0,
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(100))],
        help_text="Taken off every price of this tenant's ledger lines.",
    )
    stripe_customer = models.CharField(
        max_length=255,
        blank=True,
        default="",
        db_default="",
        help_text="cus_...: its usage is reported there. Empty: nowhere.",
    )
    stripe_from = models.DateField(
        null=True,
        blank=True,
        help_text="The first UTC day that is reported there. Empty: the day on which the customer is entered.",
    )

    class Meta:
        ordering = ("tenant__slug",)

    def __str__(self) -> str:
        return f"{self.tenant} on {self.plan}"

    def save(self, **options: Any) -> None:
        if self.stripe_customer and self.stripe_from is None:
            self.stripe_from = datetime.now(UTC).date()
            if (written := options.get("update_fields")) is not None:
                options["update_fields"] = {*written, "stripe_from"}
        super().save(**options)

    def clean(self) -> None:
        if not isinstance(self.overrides, dict):
            raise ValidationError({"overrides": "Give names and values."})
        if unknown := self.overrides.keys() - set(self.OVERRIDABLE):
            raise ValidationError({"overrides": f"Not a part of a plan: {', '.join(sorted(unknown))}."})
        for name, value in self.overrides.items():
            self._refuse_wrong_override(Plan._meta.get_field(name), value)

    def _refuse_wrong_override(self, field: Any, value: Any) -> None:
        """As strict as JSON allows: the text "false" is not false."""
        if value is None and field.null:
            return
        try:
            understood = field.clean(value, None)
        except ValidationError as exc:
            raise ValidationError({"overrides": f"{field.name}: {' '.join(exc.messages)}"}) from None
        if type(understood) is not type(value):
            raise ValidationError({"overrides": f"{field.name}: {value!r} is not what a plan has here."})

    @classmethod
    def refuse_without_seat(cls, tenant: Tenant, user: User) -> None:
        """Raises ValidationError where the tenant's plan has no seat left for one more person. Operators need none."""
        subscription = cls.objects.filter(tenant=tenant).select_related("plan").first()
        if subscription is None or user.is_staff or (seats := subscription.terms()["seats"]) is None:
            return
        others = Membership.objects.filter(tenant=tenant, user__is_staff=False).exclude(user=user)
        if others.values("user").distinct().count() >= seats:
            taken = "The one seat" if seats == 1 else f"All {seats} seats"
            raise ValidationError(f"{taken} of the plan '{subscription.plan}' {'is' if seats == 1 else 'are'} taken.")

    @classmethod
    def entitlement_of(cls, tenant: Tenant) -> Entitlement:
        """Which features a tenant may use; one without a plan all of them."""
        subscription = cls.objects.filter(tenant=tenant).select_related("plan").first()
        return subscription.entitlement() if subscription else EVERYTHING

    @classmethod
    def without(cls, feature: Feature) -> dict[UUID, Entitlement]:
        """The tenants whose plan leaves a feature out, with what it lets them use."""
        subscriptions = cls.objects.select_related("plan").order_by("tenant__slug")
        entitlements = {each.tenant_id: each.entitlement() for each in subscriptions}
        return {tenant_id: each for tenant_id, each in entitlements.items() if not each.allows(feature)}

    @classmethod
    def refuse_without_feature(cls, tenant: Tenant | None, feature: Feature, field: str) -> None:
        """Raises ValidationError, about ``field``, where the tenant's plan leaves a feature out. The installation
        (None) has them all."""
        if tenant is not None and not (entitlement := cls.entitlement_of(tenant)).allows(feature):
            raise ValidationError({field: entitlement.refusal(feature)})

    def entitlement(self) -> Entitlement:
        features = self.terms()["features"]
        return Entitlement(self.plan.name, None if features is None else frozenset(features))

    def terms(self) -> dict[str, Any]:
        """The plan as it holds for this tenant."""
        return {name: self.overrides.get(name, getattr(self.plan, name)) for name in self.OVERRIDABLE}

    @transaction.atomic
    def sync_quotas(self, actor: Actor) -> list[Budget]:
        """Make the tenant's monthly quotas agree with :meth:`terms`: one budget each for requests and tokens, switched
        off where nothing limits them. Returns those that this changed. Raises ValidationError."""
        terms = self.terms()
        quotas = {metric: terms[f"monthly_{metric}"] for metric in Budget.QUOTA_NAMES}
        return [
            budget
            for metric, cap in quotas.items()
            if (budget := self._sync_quota(metric, cap, terms["overage"], actor))
        ]

    @transaction.atomic
    def end(self, actor: Actor) -> None:
        """Take the tenant off its plan: nothing is included and nothing limited by it any more."""
        for metric in Budget.QUOTA_NAMES:
            self._sync_quota(metric, None, True, actor)
        record(actor, Action.SUBSCRIPTION_REMOVED, self, tenant=self.tenant, changes=changes_between(self, None))
        self.delete()

    def _sync_quota(self, metric: str, cap: int | None, overage: bool, actor: Actor) -> Budget | None:
        stored = Budget.objects.filter(tenant=self.tenant, is_quota=True, metric=metric).first()
        if stored is None and cap is None:
            return None
        quota = copy.copy(stored) or Budget(
            tenant=self.tenant, name=Budget.QUOTA_NAMES[metric], scope=Budget.Scope.TENANT, metric=metric,
            period=Budget.Period.MONTH, is_quota=True,
        )  # fmt: skip
        quota.enabled = cap is not None
        if cap is not None:
            quota.cap, quota.hard = Decimal(cap), not overage
        changes = changes_between(stored, quota)
        if not changes:
            return None
        quota.full_clean()
        quota.save()
        action = Action.BUDGET_CHANGED if stored else Action.BUDGET_CREATED
        record(actor, action, quota, tenant=self.tenant, changes=changes)
        return quota
