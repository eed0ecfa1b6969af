"""What may be spent: budgets, their periods and rate limits."""

from decimal import Decimal
from typing import Any, ClassVar, Self

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import connection, models, transaction
from django.db.models import Q

from audit.actions import Action
from audit.record import Actor, record
from gateway.rows import Row, TenantForeignKey, new_id
from tenants.models import ApiToken, Project, Tenant

EVERY = "*"


def default_thresholds() -> list[int]:
    """Per cent of a cap at which its tenant is told."""
    return [50, 75, 80, 90, 95, 100]


class Scoped(Row):
    """Something that holds for a part of the traffic: the installation's, a tenant's, or a part of a tenant's.

    ``subject`` names an end user, a budget key, a model or a provider; ``*`` means each of them by itself.
    """

    SUBJECTS: ClassVar[frozenset[str]] = frozenset({"user", "key", "model", "provider"})

    tenant = models.ForeignKey(
        Tenant, on_delete=models.CASCADE, null=True, blank=True, help_text="Empty: holds for the whole installation."
    )
    project = TenantForeignKey(Project, on_delete=models.CASCADE, null=True, blank=True)
    token = TenantForeignKey(ApiToken, on_delete=models.CASCADE, null=True, blank=True)
    subject = models.CharField(
        max_length=200,
        blank=True,
        help_text='The end user, budget key, model or provider it holds for; "*": each of them by itself.',
    )

    class Meta:
        abstract = True

    scope: Any  # each kind has its own choices

    @property
    def whose(self) -> str:
        """What it holds for, by name; "" where the scope says it all."""
        return str(self.project or self.token or self.subject or "")

    def clean(self) -> None:
        self._refuse_wrong_subject()
        for field in ("project", "token"):
            row = getattr(self, field)
            if row is not None and row.tenant_id != self.tenant_id:
                raise ValidationError({field: f"This {field} belongs to another tenant."})

    def _refuse_wrong_subject(self) -> None:
        if (self.tenant_id is None) != (self.scope == "installation"):
            raise ValidationError({"tenant": "A tenant has it, or the installation as a whole."})
        for field in ("project", "token"):
            if (getattr(self, f"{field}_id") is not None) != (self.scope == field):
                raise ValidationError({field: f"Goes with the scope '{field}', and with no other."})
        if bool(self.subject) != (self.scope in self.SUBJECTS):
            raise ValidationError({"subject": f"Goes with the scopes {', '.join(sorted(self.SUBJECTS))}."})

    def _stored(self) -> Self | None:
        """This row as the database has it."""
        return None if self._state.adding else type(self)._default_manager.filter(pk=self.pk).first()


class Budget(Scoped):
    """How much of something may be used in a period. A hard one is never passed; a soft one is told of."""

    class Scope(models.TextChoices):
        INSTALLATION = "installation", "the installation"
        TENANT = "tenant", "tenant"
        PROJECT = "project", "project"
        TOKEN = "token", "API token"
        USER = "user", "end user"
        KEY = "key", "x-budget-key"
        MODEL = "model", "model"
        PROVIDER = "provider", "provider"

    class Metric(models.TextChoices):
        USD = "usd", "USD"
        TOKENS = "tokens", "tokens"
        REQUESTS = "requests", "requests"

    class Period(models.TextChoices):
        HOUR = "hour", "hour"
        DAY = "day", "day"
        WEEK = "week", "week, from Monday"
        MONTH = "month", "month"
        QUARTER = "quarter", "quarter"
        ROLLING = "rolling", "rolling window"
        TOTAL = "total", "for ever"

    COUNTED_BY: ClassVar[tuple[str, ...]] = (
        "tenant", "scope", "project", "token", "subject", "metric", "period", "rolling_s",
    )  # fmt: skip
    """What its periods are counted by, and which therefore never changes."""
    QUOTA_NAMES: ClassVar[dict[str, str]] = {"requests": "quota-requests", "tokens": "quota-tokens"}

    name = models.CharField(max_length=100)
    scope = models.CharField(max_length=16, choices=Scope.choices)
    metric = models.CharField(max_length=8, choices=Metric.choices)
    cap = models.DecimalField(max_digits=24, decimal_places=12, validators=[MinValueValidator(Decimal(0))])
    period = models.CharField(max_length=8, choices=Period.choices, default=Period.MONTH)
    rolling_s = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(60)], help_text="Seconds; for a rolling window only."
    )
    hard = models.BooleanField(default=True, help_text="Refuse what would pass the cap. Off: tell, and go on.")
    thresholds = ArrayField(
        models.PositiveSmallIntegerField(validators=[MinValueValidator(1), MaxValueValidator(1000)]),
        default=default_thresholds,
        blank=True,
        help_text="Per cent of the cap at which an alert is raised.",
    )
    enabled = models.BooleanField(default=True)
    is_quota = models.BooleanField(
        default=False, editable=False, help_text="Made by the tenant's plan: refused as quota_exceeded."
    )

    class Meta:
        ordering = ("tenant__slug", "name")
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "name"), nulls_distinct=False, name="budget_name_once_per_tenant"
            ),
            models.CheckConstraint(
                condition=Q(period="rolling", rolling_s__isnull=False) | (~Q(period="rolling") & Q(rolling_s=None)),
                name="rolling_budget_has_a_window",
                violation_error_message="A rolling window needs its length in seconds, and no other period has one.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        self._refuse_other_counting()
        super().clean()
        self.thresholds = sorted(set(self.thresholds or ()))
        if isinstance(self.cap, Decimal) and self.metric != self.Metric.USD and self.cap % 1:
            raise ValidationError({"cap": "Requests and tokens come in whole numbers."})
        if not self.is_quota and self.name in self.QUOTA_NAMES.values():
            raise ValidationError({"name": f"'{self.name}' is the name of what a plan includes."})

    def _refuse_other_counting(self) -> None:
        stored = self._stored()
        if stored is None:
            return
        changed = [name for name in self.COUNTED_BY if getattr(stored, name) != getattr(self, name)]
        for name in changed:
            if name == "token" and self._follows(stored):
                continue
            message = f"A budget keeps its {name}, as what was spent is counted by it; declare a new one."
            raise ValidationError({name: message})

    def _follows(self, stored: "Budget") -> bool:
        """Whether the token took the place of the one before: a rotation does not start anew."""
        before, after = stored.token, self.token
        if before is None or after is None or before.revoked_at is None:
            return False
        return (before.project_id, before.name) == (after.project_id, after.name)


class BudgetPeriod(models.Model):
    """What was spent and is held of one budget in one period (of a rolling window: in one slice of it).

    The key is derived from budget, subject and start (:func:`billing.budgets.period_id`), so that every process names
    a period alike without asking. Amounts are in the budget's metric.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    subject = models.CharField(max_length=200, blank=True, help_text="Whose, where the budget is each one's own.")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, help_text="Empty: never.")
    spent = models.DecimalField(max_digits=30, decimal_places=12, default=0)
    held = models.DecimalField(max_digits=30, decimal_places=12, default=0)
    alerted = models.PositiveSmallIntegerField(default=0, help_text="The highest threshold that was told, in per cent.")

    class Meta:
        ordering = ("-starts_at",)
        constraints = (models.UniqueConstraint(fields=("budget", "subject", "starts_at"), name="one_period_at_a_time"),)

    def __str__(self) -> str:
        return f"{self.budget} from {self.starts_at:%Y-%m-%d %H:%M}"


class RateLimit(Scoped):
    """How fast a part of the traffic may come."""

    class Scope(models.TextChoices):
        TENANT = "tenant", "tenant"
        PROJECT = "project", "project"
        TOKEN = "token", "API token"
        USER = "user", "end user"
        MODEL = "model", "model"

    scope = models.CharField(max_length=16, choices=Scope.choices)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    concurrent = models.PositiveIntegerField(null=True, blank=True, help_text="Requests under way at a time.")

    class Meta:
        ordering = ("tenant__slug", "scope")
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "scope", "project", "token", "subject"),
                nulls_distinct=False,
                name="one_rate_limit_per_scope",
            ),
        )

    RATES: ClassVar[tuple[str, ...]] = ("requests_per_minute", "tokens_per_minute", "concurrent")

    def __str__(self) -> str:
        return f"{self.get_scope_display()} {self.whose or self.tenant}"

    def clean(self) -> None:
        super().clean()
        for name in self.RATES:
            if getattr(self, name) == 0:
                raise ValidationError({name: "At least 1; without a value there is no limit."})


@transaction.atomic
def follow_token(before: ApiToken, after: ApiToken, actor: Actor) -> None:
    """Let the budgets and limits of a revoked token hold for the one that takes its place: what was spent stays spent.
    Whoever may replace the token may do this, also one who may not change a limit."""
    for kind, changed in ((Budget, Action.BUDGET_CHANGED), (RateLimit, Action.RATE_LIMIT_CHANGED)):
        rows = list(kind._default_manager.filter(token=before).select_related("tenant"))
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pointsman_{kind._meta.model_name}_follows(%s, %s)", [before.pk, after.pk])
        for row in rows:
            changes = {"token": [str(before.pk), str(after.pk)]}
            record(actor, changed, row, tenant=row.tenant, changes=changes)
