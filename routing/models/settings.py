"""How a tenant wants its requests routed."""

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from billing.features import Feature
from billing.models import Subscription
from gateway.rows import Row, TenantForeignKey
from routing.rules import check_rules
from routing.scores import STRATEGIES
from tenants.models import ApiToken, Project, Tenant

SHARE = (MinValueValidator(0.0), MaxValueValidator(1.0))
STRATEGY_CHOICES = tuple((strategy, strategy) for strategy in STRATEGIES)


def validate_rules(rules: Any) -> None:
    """Rules of :mod:`routing.rules`, in order."""
    try:
        check_rules(rules)
    except ValueError as exc:
        raise ValidationError(str(exc)) from None


class RoutingSettings(Row):
    """One tenant's router. A tenant without a row has the defaults: it routes, and learns from ratings only."""

    class Engine(models.TextChoices):
        HIER = "hier", "learns by posterior"
        EMA = "ema", "moving averages by cell"
        FIXED = "fixed", "fixed weights of published quality, price and latency"

    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="routing")
    engine = models.CharField(max_length=8, choices=Engine.choices, default=Engine.HIER)
    strategy = models.CharField(
        max_length=12, choices=STRATEGY_CHOICES, default="balanced", help_text="Of requests that ask for none."
    )
    rules = models.JSONField(
        default=list, blank=True, validators=[validate_rules], help_text="Filters and scores, in order (docs)."
    )
    judge_usd_per_day = models.DecimalField(
        max_digits=12,
        decimal_places=6,
        default=Decimal(0),
        validators=[MinValueValidator(Decimal(0))],
        help_text="What judging answers may cost a day (UTC). 0: answers are never judged.",
    )
    judge_rate = models.FloatField(
        default=0.1, validators=SHARE, help_text="Share of routed answers that are judged while the money lasts."
    )
    judge_model = models.CharField(
        max_length=200, blank=True, help_text="Empty: the cheapest that is good enough. Never the one judged."
    )
    shadow = models.BooleanField(
        default=True, help_text="Try other models in the background only: nobody is served an exploratory answer."
    )
    reads_shared = models.BooleanField(default=False, help_text="Learn from what other tenants share, too.")
    feeds_shared = models.BooleanField(
        default=False, help_text="Let others learn from our ratings: numbers about models, never text."
    )
    quality_floor = models.FloatField(
        null=True, blank=True, validators=SHARE, help_text="Expected quality no answer may fall under, if any reach it."
    )
    usd_per_1000_requests = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1e-9)],
        help_text="What 1,000 routed requests should cost; the weight of cost follows from it.",
    )
    ema_alpha = models.FloatField(default=0.1, validators=SHARE)
    ema_epsilon = models.FloatField(default=0.1, validators=SHARE)
    ema_least_samples = models.PositiveSmallIntegerField(default=5)
    auto_ab = models.BooleanField(default=False, help_text="Test the two best models of cells where they are tied.")
    auto_migrate = models.BooleanField(
        default=False, help_text="Move cells to a cheaper model that is shown to be as good, step by step."
    )
    replay_usd_per_week = models.DecimalField(
        max_digits=12,
        decimal_places=6,
        default=Decimal(0),
        validators=[MinValueValidator(Decimal(0))],
        help_text="What replaying banked conversations may cost a week. 0: nothing is banked or replayed.",
    )

    class Meta:
        verbose_name_plural = "routing settings"

    def __str__(self) -> str:
        return f"routing of {self.tenant}"

    def clean(self) -> None:
        if not hasattr(self, "tenant"):  # a form that names none is refused for that
            return
        if self.ema_alpha == 0:
            raise ValidationError(
                {"ema_alpha": "This must be more than 0: with 0 later ratings would count for nothing."}
            )
        wanted: dict[str, Feature] = {
            "judge_usd_per_day": "judge",
            "replay_usd_per_week": "replay",
            "auto_ab": "experiments",
            "auto_migrate": "experiments",
        }
        stored = RoutingSettings.of(self.tenant)
        for field, feature in wanted.items():
            if getattr(self, field) and not getattr(stored, field):
                Subscription.refuse_without_feature(self.tenant, feature, field)

    @classmethod
    def of(cls, tenant: Tenant) -> "RoutingSettings":
        """A tenant's row, or the defaults (not saved)."""
        return cls.objects.filter(tenant=tenant).first() or cls(tenant=tenant)


class StrategyChoice(Row):
    """The strategy of one project's or one API token's requests, where it is not the tenant's."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="strategy_choices")
    project = TenantForeignKey(Project, on_delete=models.CASCADE, null=True, blank=True)
    token = TenantForeignKey(ApiToken, on_delete=models.CASCADE, null=True, blank=True)
    strategy = models.CharField(max_length=12, choices=STRATEGY_CHOICES)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "project", "token"), nulls_distinct=False, name="one_strategy_per_project_or_token"
            ),
            models.CheckConstraint(
                condition=Q(project=None) ^ Q(token=None),
                name="strategy_of_a_project_or_a_token",
                violation_error_message="Choose a project or an API token, and not both.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.strategy} for {self.project or self.token}"

    def clean(self) -> None:
        for field in ("project", "token"):
            row = getattr(self, field)
            if row is not None and row.tenant_id != self.tenant_id:
                raise ValidationError({field: f"This {field} belongs to another tenant."})


class PublishedScore(Row):
    """What is known of a model's quality before anybody has rated its answers, and who says so."""

    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, null=True, blank=True, help_text="Empty: holds for every tenant."
    )
    vendor_model_pattern = models.CharField(max_length=200, help_text='The vendor\'s name; "gpt-4o-2024-*" for many.')
    quality = models.FloatField(validators=SHARE, help_text="0-1, comparable with the others in this table.")
    source = models.CharField(max_length=300, help_text="Where the figure is from.")

    class Meta:
        ordering = ("-quality",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "vendor_model_pattern"), nulls_distinct=False, name="one_published_score_per_pattern"
            ),
        )

    def __str__(self) -> str:
        return f"{self.vendor_model_pattern}: {self.quality:.2f}"
