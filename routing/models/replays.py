"""Banked conversations, what models answer to them later, and the watches that look for change."""

from django.db import models

from gateway.rows import TenantForeignKey, new_id
from tenants.models import Tenant


class BankedConversation(models.Model):
    """A whole conversation, encrypted with the tenant's data key, and the judgement that it was drawn by."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="bank")
    request_id = models.UUIDField()
    project_id = models.UUIDField(help_text="Whose ledger lines its replays are.")
    ciphertext = models.BinaryField(editable=False)
    master_key_number = models.PositiveSmallIntegerField(editable=False)
    task = models.CharField(max_length=16)
    complexity = models.CharField(max_length=8)
    model_name = models.CharField(max_length=200)
    score = models.FloatField(help_text="The judgement that it was drawn by, 0-1.")
    banked_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "id"), name="conversation_tenant_id"),
            models.UniqueConstraint(fields=("tenant", "request_id"), name="conversation_banked_once_per_tenant"),
        )

    def __str__(self) -> str:
        return f"{self.task}/{self.complexity} {self.request_id}"


class ReplayVerdict(models.Model):
    """One model's answer to a banked conversation in one run, as judged in that run."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="replay_verdicts")
    conversation = TenantForeignKey(BankedConversation, on_delete=models.CASCADE, related_name="verdicts")
    week = models.DateField(help_text="The Monday of its run: a run that broke off goes on where it was.")
    model_name = models.CharField(max_length=200)
    control = models.BooleanField(help_text="The reference that shows whether the judge has changed.")
    value = models.FloatField(null=True, help_text="Empty: there was no answer, or no judgement.")
    output_tokens = models.BigIntegerField(default=0)
    refused = models.BooleanField(default=False)
    valid_json = models.BooleanField(null=True, help_text="Empty: none was asked for.")
    latency_ms = models.FloatField(null=True)
    cost_usd = models.DecimalField(max_digits=24, decimal_places=12, null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("conversation", "week", "model_name", "control"), name="one_replay_a_week_and_model"
            ),
        )

    def __str__(self) -> str:
        return f"{self.model_name} {self.week}"


class DriftWatch(models.Model):
    """Whether a model still answers as it did: the running evidence against that, and when it was too much."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="drift_watches")
    model_name = models.CharField(max_length=200)
    state = models.JSONField(default=dict)
    last_week = models.DateField(null=True)
    alarmed_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name_plural = "drift watches"
        constraints = (models.UniqueConstraint(fields=("tenant", "model_name"), name="one_watch_per_model"),)

    def __str__(self) -> str:
        return f"{self.model_name} of {self.tenant}"
