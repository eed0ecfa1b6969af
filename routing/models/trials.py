"""What is tried out: experiments, and cells on their way to another model."""

from typing import cast

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q

from billing.models import Subscription
from gateway.rows import Row, TenantForeignKey, new_id
from routing.experiments import Experiment as Design
from routing.experiments.facts import Mode, Sticky
from routing.features import COMPLEXITIES, TASKS
from tenants.models import Tenant

TASK_CHOICES = tuple((task, task) for task in TASKS)
COMPLEXITY_CHOICES = tuple((complexity, complexity) for complexity in COMPLEXITIES)
LEAST_ARMS = 2


class Experiment(Row):
    """Two or more models compared on the requests of a cell; the first is the one the others must beat."""

    class Mode(models.TextChoices):
        SPLIT = "split", "share the traffic"
        SHADOW = "shadow", "answer beside the first, unseen by callers"

    class Sticky(models.TextChoices):
        REQUEST = "request", "each request by itself"
        SESSION = "session", "by session"
        USER = "user", "by end user"

    class Status(models.TextChoices):
        RUNNING = "running", "running"
        ENDED = "ended", "ended"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="experiments")
    name = models.CharField(max_length=100)
    task = models.CharField(max_length=16, choices=TASK_CHOICES, blank=True, help_text="Empty: any.")
    complexity = models.CharField(max_length=8, choices=COMPLEXITY_CHOICES, blank=True, help_text="Empty: any.")
    arms = ArrayField(models.CharField(max_length=200), help_text="Names of models; the first is the control.")
    shares = ArrayField(models.FloatField(), default=list, blank=True, help_text="Empty: equal shares.")
    mode = models.CharField(max_length=8, choices=Mode.choices, default=Mode.SPLIT)
    sticky = models.CharField(max_length=8, choices=Sticky.choices, default=Sticky.SESSION)
    judge_rate = models.FloatField(default=1.0, help_text="Share of its answers that are judged, while money lasts.")
    guards = models.JSONField(default=list, blank=True, help_text="Metrics that must not get worse (docs).")
    most_labels = models.PositiveIntegerField(default=2000, help_text="Ends undecided after so many judged answers.")
    most_days = models.PositiveSmallIntegerField(default=28)
    promotes = models.BooleanField(default=True, help_text="A winner takes over its cell.")
    automatic = models.BooleanField(default=False, editable=False, help_text="Begun by auto-A/B.")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.RUNNING, editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)
    winner = models.CharField(max_length=200, blank=True, editable=False)
    reason = models.CharField(max_length=500, blank=True, editable=False)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "id"), name="experiment_tenant_id"),
            models.UniqueConstraint(fields=("tenant", "name"), name="experiment_name_once_per_tenant"),
            models.UniqueConstraint(
                fields=("tenant", "task", "complexity"),
                condition=Q(status="running"),
                name="one_running_experiment_per_cell",
                violation_error_message="An experiment is running on this cell; end it first.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self._state.adding and hasattr(self, "tenant"):
            Subscription.refuse_without_feature(self.tenant, "experiments", "name")
        if not self.arms or len(self.arms) < LEAST_ARMS or len(set(self.arms)) != len(self.arms):
            raise ValidationError({"arms": "Name at least two models, each once."})
        if self.shares and (len(self.shares) != len(self.arms) or min(self.shares) <= 0):
            raise ValidationError({"shares": "Give each arm a share greater than 0, or leave this empty."})
        if self.judge_rate is not None and not 0 <= self.judge_rate <= 1:
            raise ValidationError({"judge_rate": "This is a share, from 0 to 1."})
        for field in ("most_labels", "most_days"):
            if getattr(self, field) == 0:
                raise ValidationError({field: "This must be at least 1."})

    def design(self) -> Design:
        """The experiment as requests are assigned by it."""
        return Design(
            id=str(self.pk),
            name=self.name,
            task=self.task,
            complexity=self.complexity,
            arms=tuple(self.arms),
            shares=tuple(self.shares),
            mode=cast("Mode", self.mode),
            sticky=cast("Sticky", self.sticky),
        )


class ExperimentEvidence(models.Model):
    """What an experiment has shown so far. A row of its own, as it changes all the time and no policy with it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    experiment = TenantForeignKey(Experiment, on_delete=models.CASCADE, related_name="evidence")
    state = models.JSONField(default=dict, help_text="By arm, as routing.experiments keeps it.")
    position = models.BigIntegerField(default=0, help_text="The last label it has taken in.")
    seen_id = models.UUIDField(null=True, help_text="The last decision it has counted.")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "experiment evidence"
        constraints = (models.UniqueConstraint(fields=("experiment",), name="one_evidence_per_experiment"),)

    def __str__(self) -> str:
        return f"evidence of {self.experiment_id}"


class Ramp(Row):
    """A cell's requests that go to another model than the router would choose: all of them, or a growing part."""

    class Source(models.TextChoices):
        HAND = "hand", "by hand"
        EXPERIMENT = "experiment", "won an experiment"
        MIGRATION = "migration", "cheaper and as good"

    class Status(models.TextChoices):
        ACTIVE = "active", "active"
        DONE = "done", "has taken over"
        ROLLED_BACK = "rolled_back", "rolled back"
        ENDED = "ended", "ended"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="ramps")
    task = models.CharField(max_length=16, choices=TASK_CHOICES, blank=True, help_text="Empty: any.")
    complexity = models.CharField(max_length=8, choices=COMPLEXITY_CHOICES, blank=True, help_text="Empty: any.")
    from_model = models.CharField(max_length=200, blank=True, help_text="Empty: whatever the router would choose.")
    to_model = models.CharField(max_length=200)
    percent = models.PositiveSmallIntegerField(default=100, validators=[MaxValueValidator(100)])
    source = models.CharField(max_length=12, choices=Source.choices, default=Source.HAND, editable=False)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.ACTIVE, editable=False)
    since = models.DateTimeField(auto_now_add=True, help_text="Of the present step.")
    evidence = models.JSONField(default=dict, editable=False, help_text="What it was decided on, and each step.")
    reason = models.CharField(max_length=500, blank=True)
    saved_usd = models.DecimalField(max_digits=24, decimal_places=12, default=0, editable=False)

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "task", "complexity"),
                condition=Q(status__in=("active", "done")),
                name="one_ramp_per_cell",
                violation_error_message="This cell is being moved, or has been; end that first.",
            ),
        )

    def __str__(self) -> str:
        return f"{self.task or 'any task'}/{self.complexity or 'any'} → {self.to_model}"
