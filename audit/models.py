"""Who did what to which object (append-only, a hash chain per tenant), and what ran in the background."""

from django.db import models

from gateway.rows import new_id


class AuditEvent(models.Model):
    """One act of management. ``digest`` covers the event and its predecessor's digest, so that a changed,
    missing or re-ordered row shows. Without a tenant the event belongs to the installation's own chain."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, null=True, related_name="audit_events")
    sequence = models.BigIntegerField()
    at = models.DateTimeField(db_index=True)
    # The trail outlives the account and is never changed, so the key stays even when nobody has it any more.
    actor = models.ForeignKey("tenants.User", on_delete=models.DO_NOTHING, null=True, db_constraint=False)
    actor_label = models.CharField(max_length=254, help_text="Who acted, as known at the time (or which command).")
    action = models.CharField(max_length=64)
    object_type = models.CharField(max_length=64)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(max_length=254, blank=True)
    changes = models.JSONField(default=dict, help_text="Field by field; secrets are never in here.")
    client_ip = models.GenericIPAddressField(null=True)
    previous_digest = models.BinaryField(max_length=32)
    digest = models.BinaryField(max_length=32)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "sequence"), nulls_distinct=False, name="audit_chain_has_no_forks"
            ),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.object_label or self.object_id}"


class AuditCheckpoint(models.Model):
    """Where a chain begins since its oldest events were removed: at the event after ``sequence``, whose predecessor's
    digest this was. Written by ``pointsman_remove_audit_events`` alone (see :mod:`audit.retention`)."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, null=True, related_name="audit_checkpoints")
    sequence = models.BigIntegerField(help_text="Of the newest event that was removed.")
    digest = models.BinaryField(max_length=32)
    removed_before = models.DateTimeField(help_text="What was removed is older than this.")
    events_removed = models.BigIntegerField()
    removed_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "sequence"), nulls_distinct=False, name="audit_chain_is_cut_once_at_a_place"
            ),
        )

    def __str__(self) -> str:
        return f"up to {self.sequence}"


class JobRun(models.Model):
    """One run of a background job: what it saw, decided and spent."""

    class Outcome(models.TextChoices):
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        SKIPPED = "skipped", "skipped: another one was at it"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    job = models.CharField(max_length=64, db_index=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.RUNNING)
    started_by = models.CharField(max_length=254, blank=True, help_text="The schedule, a command, or a person.")
    facts = models.JSONField(default=dict, help_text="Counts and decisions, by name.")
    error = models.CharField(max_length=1000, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.job} {self.started_at:%Y-%m-%d %H:%M}"
