"""What pages and spend queries read: sums by the hour, made again whenever a line comes late."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from gateway.rows import new_id


class HourlySums(models.Model):
    """The figures every roll-up has. ``latency_counts`` is a histogram by :data:`billing.rollups.LATENCY_BOUNDS_MS`:
    histograms add up, so percentiles are true over any range."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    hour = models.DateTimeField()
    tenant_id = models.UUIDField(null=True)
    project_id = models.UUIDField(null=True)
    attempts = models.BigIntegerField(default=0)
    requests = models.BigIntegerField(default=0, help_text="Different requests these attempts were made for.")
    failed = models.BigIntegerField(default=0)
    cancelled = models.BigIntegerField(default=0)
    abandoned = models.BigIntegerField(default=0)
    estimated = models.BigIntegerField(default=0)
    unpriced = models.BigIntegerField(default=0)
    cache_hits = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    cached_input_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=30, decimal_places=12, default=0)
    adjusted_usd = models.DecimalField(max_digits=30, decimal_places=12, default=0)
    saved_usd = models.DecimalField(max_digits=30, decimal_places=12, default=0)
    latency_counts = ArrayField(models.BigIntegerField(), default=list)

    class Meta:
        abstract = True


class UsageHour(HourlySums):
    """Of everything that is counted by who, what and why."""

    token_id = models.UUIDField(null=True)
    model_id = models.UUIDField(null=True)
    provider_id = models.UUIDField(null=True)
    vendor_model = models.CharField(max_length=200)
    purpose = models.CharField(max_length=12)
    task_type = models.CharField(max_length=32, blank=True)
    complexity = models.CharField(max_length=16, blank=True)

    class Meta:
        verbose_name_plural = "usage by hour"
        indexes = (models.Index(fields=("tenant_id", "hour")), models.Index(fields=("hour", "tenant_id")))

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}"


class UsageHourTag(HourlySums):
    """By tag: a request with two tags counts under both."""

    tag = models.CharField(max_length=256)

    class Meta:
        verbose_name_plural = "usage by hour and tag"
        indexes = (models.Index(fields=("tenant_id", "hour")), models.Index(fields=("hour", "tenant_id")))

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.tag}"


class UsageHourUser(HourlySums):
    """By end user."""

    end_user = models.CharField(max_length=200)

    class Meta:
        verbose_name_plural = "usage by hour and end user"
        indexes = (models.Index(fields=("tenant_id", "hour")), models.Index(fields=("hour", "tenant_id")))

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.end_user}"


class RollupMark(models.Model):
    """How far settlements and adjustments have been rolled up. One row."""

    id = models.SmallIntegerField(primary_key=True, default=1, editable=False)
    rolled_up_to = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.rolled_up_to:%Y-%m-%d %H:%M:%S}"
