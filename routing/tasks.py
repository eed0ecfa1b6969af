"""Background work of the router that needs nothing of the gateway's own tables (the rest is in gateway.tasks)."""

from celery import shared_task
from django.utils import timezone

from audit.jobs import SCHEDULE, run_job
from routing.snapshots import snapshot_weights
from routing.trials import evaluate_experiments


@shared_task  # type: ignore[untyped-decorator]
def experiments(started_by: str = SCHEDULE) -> str:
    """Look at every experiment under way, and end those that have shown enough."""
    return run_job("experiments", lambda: evaluate_experiments(timezone.now()), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def weight_snapshots(started_by: str = SCHEDULE) -> str:
    """Keep a picture of what routers believe of each model."""
    return run_job("weight_snapshots", lambda: snapshot_weights(timezone.now()), started_by).outcome
