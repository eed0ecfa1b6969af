"""Background work about money. Each task is one job with a record of its own (:mod:`audit.jobs`)."""

from celery import shared_task
from django.utils import timezone

from audit.jobs import run_job
from billing.alerts import deliver_pending, raise_budget_alerts
from billing.reaper import reap_as_job
from billing.retention import retain
from billing.rollups import roll_up


@shared_task  # type: ignore[untyped-decorator]
def roll_up_usage() -> str:
    """Bring the sums by hour and day up to now."""
    return run_job("roll_up", roll_up).outcome


@shared_task  # type: ignore[untyped-decorator]
def remove_old_logs() -> str:
    """Remove request logs that nobody keeps any longer."""
    return run_job("retention", retain).outcome


@shared_task  # type: ignore[untyped-decorator]
def reap() -> str:
    """Close what gateway processes that died have left open."""
    return reap_as_job().outcome


@shared_task  # type: ignore[untyped-decorator]
def budget_alerts() -> str:
    """Tell of the thresholds that budgets have passed."""
    return run_job("budget_alerts", lambda: raise_budget_alerts(timezone.now())).outcome


@shared_task  # type: ignore[untyped-decorator]
def deliver_alerts() -> str:
    """Send what is due."""
    return run_job("deliver_alerts", lambda: deliver_pending(timezone.now())).outcome
