"""What was decided, how it turned out, and what people and judges said of it."""

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from gateway.rows import new_id
from routing.candidate_table import CandidateTable
from tenants.models import Tenant


class Decision(models.Model):
    """One routed request (its key is the request's), partitioned by month: everything that an estimate of another
    policy needs later, and how the answer turned out. Written beside the traffic, never the truth about money."""

    request_id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.DO_NOTHING, db_constraint=False, related_name="decisions")
    project_id = models.UUIDField()
    token_id = models.UUIDField()
    end_user = models.CharField(max_length=200, blank=True)
    strategy = models.CharField(max_length=12)
    engine = models.CharField(max_length=12, help_text="Who decided: hier, ema, fixed, experiment or ramp.")
    state_version = models.PositiveIntegerField(default=0, help_text="Labels the router had learned from.")
    task = models.CharField(max_length=16)
    complexity = models.CharField(max_length=8)
    confidence = models.FloatField()
    vector = models.BinaryField(help_text="The request's features: 64-bit floats, little-endian.")
    input_tokens = models.IntegerField(help_text="Estimated before the call.")
    chosen = models.CharField(max_length=200)
    propensity = models.FloatField(help_text="Probability with which it was chosen.")
    explored = models.BooleanField(default=False)
    qualified = ArrayField(models.CharField(max_length=200), default=list)
    weighed = models.BinaryField(
        default=b"", help_text="What was weighed of each: 32-bit floats (see routing.candidate_table)."
    )
    removed = models.JSONField(default=dict, help_text="Model: rule and reason.")
    reason = models.CharField(max_length=500)
    experiment_id = models.UUIDField(null=True)
    arm = models.CharField(max_length=200, blank=True)
    unit = models.CharField(
        max_length=32, blank=True, help_text="Digest of what sticks to its arm: a session, an end user or the request."
    )
    judged = models.BooleanField(default=False, help_text="The judge's coin came up.")
    judge_probability = models.FloatField(default=0.0)
    challenger = models.CharField(max_length=200, blank=True)
    challenger_propensity = models.FloatField(null=True)
    model_name = models.CharField(max_length=200, blank=True, help_text="The model that answered.")
    status = models.PositiveSmallIntegerField()
    finish_reason = models.CharField(max_length=24, blank=True)
    output_tokens = models.BigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=24, decimal_places=12, null=True)
    latency_ms = models.FloatField()
    first_token_ms = models.FloatField(null=True)

    class Meta:
        ordering = ("-request_id",)
        indexes = (models.Index(fields=("tenant", "-request_id"), name="decisions_of_a_tenant"),)

    def __str__(self) -> str:
        return str(self.request_id)

    @property
    def candidates(self) -> dict[str, list[Any]]:
        """By column, in the order of trial: model, mean, sd, cost, latency, penalty, caution, propensity, points."""
        return CandidateTable(self.qualified, bytes(self.weighed)).columns(self.chosen)


class JudgeSample(models.Model):
    """A question and its answer on their way to the judge, encrypted with the tenant's data key. Deleted when judged,
    or some days later where conversations are banked: the bank is drawn from what was judged."""

    request_id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="judge_samples")
    ciphertext = models.BinaryField(editable=False)
    master_key_number = models.PositiveSmallIntegerField(editable=False)
    tries = models.PositiveSmallIntegerField(default=0, db_default=0)
    due_at = models.DateTimeField(db_index=True, help_text="Not to be taken up before.")
    judged_at = models.DateTimeField(null=True)
    score = models.FloatField(null=True, help_text="Of the answer that was served, 0-1.")

    class Meta:
        ordering = ("request_id",)

    def __str__(self) -> str:
        return str(self.request_id)


class Feedback(models.Model):
    """What a person thinks of an answer. The same person may change it; the router learns the first one."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="feedback")
    request_id = models.UUIDField(db_index=True)
    rater = models.CharField(max_length=254, help_text="An end user, an API token's name, or a member's address.")
    value = models.FloatField(
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)], help_text="Score 1-5 as 0, .25, .5, .75, 1."
    )
    comment = models.CharField(max_length=2000, blank=True)
    rated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "feedback"
        ordering = ("-rated_at",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "request_id", "rater"), name="one_rating_per_rater_and_request"),
        )

    def __str__(self) -> str:
        return f"{self.value:.2f} for {self.request_id}"


class Label(models.Model):
    """One rating (0-1) of one model's answer: what the router learns from. Append-only but for ``position``, the place
    in the order of learning, which the one applier gives out."""

    class Rater(models.TextChoices):
        USER = "user"
        JUDGE = "judge"
        RULE = "rule"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="labels")
    request_id = models.UUIDField()
    model_name = models.CharField(max_length=200)
    identity = models.CharField(
        max_length=240, blank=True, help_text="Vendor kind / vendor's model, where that means the same for all tenants."
    )
    rater = models.CharField(max_length=8, choices=Rater.choices)
    rater_name = models.CharField(max_length=254, blank=True)
    value = models.FloatField()
    variance = models.FloatField(null=True, help_text="The rater's own. Empty: a judge's usual one.")
    task = models.CharField(max_length=16)
    complexity = models.CharField(max_length=8)
    vector = models.BinaryField()
    end_user = models.CharField(max_length=200, blank=True)
    paired = models.BooleanField(default=False, help_text="Judged beside another model's answer to the same request.")
    shared = models.BooleanField(default=False, help_text="The tenant fed the shared pool when it was given.")
    created_at = models.DateTimeField(auto_now_add=True)
    position = models.BigIntegerField(null=True, unique=True, help_text="Empty: not taken up yet.")
    left_out = models.CharField(max_length=64, blank=True, help_text="Why the router does not learn from it.")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "request_id", "model_name", "rater", "rater_name"), name="one_label_per_rater"
            ),
        )
        indexes = (
            models.Index(fields=("id",), condition=Q(position=None), name="labels_not_taken_up"),
            models.Index(fields=("tenant", "position"), name="labels_in_order"),
            models.Index(fields=("position",), condition=Q(shared=True), name="shared_labels_in_order"),
        )

    def __str__(self) -> str:
        return f"{self.value:.2f} for {self.model_name}"
