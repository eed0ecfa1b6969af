"""What the router believes, and how that moved."""

from django.db import models

from gateway.rows import new_id
from tenants.models import Tenant


class RouterState(models.Model):
    """The beliefs of one tenant's engine after the labels up to ``position``. Gateway processes hold a read copy."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="router_states")
    engine = models.CharField(max_length=8)
    state = models.BinaryField(editable=False)
    version = models.BigIntegerField(default=0, help_text="Raised with every change.")
    position = models.BigIntegerField(default=0, help_text="The last label it has learned.")
    labels = models.PositiveIntegerField(default=0)
    observed_id = models.UUIDField(
        null=True, help_text="The moment up to which it has seen answers' lengths and latencies."
    )
    judge_probability = models.FloatField(default=0.0, help_text="With which a routed answer is judged at present.")
    cost_weight = models.FloatField(
        null=True, help_text="Points of quality per USD per 1,000 requests, where a spend target sets it."
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("tenant", "engine"), name="one_state_per_engine"),)

    def __str__(self) -> str:
        return f"{self.engine} of {self.tenant}, version {self.version}"


class WeightSnapshot(models.Model):
    """A day's picture of the router: what it believed of each model and what followed from it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="weight_snapshots")
    day = models.DateField()
    engine = models.CharField(max_length=8)
    labels = models.PositiveIntegerField()
    by_model = models.JSONField(help_text="By model: mean, sd, labels, requests and USD of the day.")
    requests = models.PositiveIntegerField(default=0)
    cost_usd = models.DecimalField(max_digits=24, decimal_places=12, default=0)

    class Meta:
        ordering = ("-day",)
        constraints = (models.UniqueConstraint(fields=("tenant", "day"), name="one_snapshot_a_day"),)

    def __str__(self) -> str:
        return f"{self.tenant} {self.day}"
