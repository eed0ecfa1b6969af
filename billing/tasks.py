"""Background work about money. Each task is one job with a record of its own (:mod:`audit.jobs`), which names who
started it."""

from celery import shared_task
from django.utils import timezone

from audit.jobs import SCHEDULE, run_job
from audit.retention import remove_old_events
from billing.alerts import deliver_pending, raise_budget_alerts
from billing.reaper import reap_as_job
from billing.retention import retain
from billing.rollups import roll_up
from billing.usage_reports import usage_report as make_usage_reports


@shared_task  # type: ignore[untyped-decorator]
def roll_up_usage(started_by: str = SCHEDULE) -> str:
    """Bring the sums by hour and day up to now."""
    return run_job("roll_up", roll_up, started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def usage_report(started_by: str = SCHEDULE) -> str:
    """Report what each tenant used by the day, to Stripe where that is set up."""
    return run_job("usage_report", make_usage_reports, started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def audit_retention(started_by: str = SCHEDULE) -> str:
    """Remove audit events that nobody keeps any longer; what remains can still be verified."""
    return run_job("audit_retention", remove_old_events, started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def remove_old_logs(started_by: str = SCHEDULE) -> str:
    """Remove request logs that nobody keeps any longer."""
    return run_job("retention", retain, started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def reap(started_by: str = SCHEDULE) -> str:
    """Close what gateway processes that died have left open."""
    return reap_as_job(started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def budget_alerts(started_by: str = SCHEDULE) -> str:
    """Tell of the thresholds that budgets have passed."""
    return run_job("budget_alerts", lambda: raise_budget_alerts(timezone.now()), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def deliver_alerts(started_by: str = SCHEDULE) -> str:
    """Send what is due."""
    return run_job("deliver_alerts", lambda: deliver_pending(timezone.now()), started_by).outcome
