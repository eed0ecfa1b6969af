"""The Celery application and, nowhere else, its schedule."""

import logging.config
import os

from celery import Celery, signals
from celery.schedules import crontab
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

app = Celery("pointsman")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def keep_our_logging(**_: object) -> None:
    """Celery would put handlers of its own in the place of ours."""
    logging.config.dictConfig(settings.LOGGING)


# Each entry bears the name of its runs (audit.models.JobRun.job): operators see both side by side.
app.conf.beat_schedule = {
    "make_partitions": {"task": "gateway.tasks.make_partitions", "schedule": crontab(hour="3", minute="17")},
    "reap": {"task": "billing.tasks.reap", "schedule": 15.0},
    "roll_up": {"task": "billing.tasks.roll_up_usage", "schedule": 300.0},
    "budget_alerts": {"task": "billing.tasks.budget_alerts", "schedule": 30.0},
    "alert_rules": {"task": "gateway.tasks.alert_rules", "schedule": 60.0},
    "deliver_alerts": {"task": "billing.tasks.deliver_alerts", "schedule": 15.0},
    "judge": {"task": "gateway.tasks.judge", "schedule": 15.0},
    "learn": {"task": "gateway.tasks.learn", "schedule": 10.0},
    "experiments": {"task": "routing.tasks.experiments", "schedule": 60.0},
    "weight_snapshots": {"task": "routing.tasks.weight_snapshots", "schedule": crontab(hour="0", minute="7")},
    "replay_bank_populate": {"task": "gateway.tasks.replay_bank_populate", "schedule": crontab(hour="1", minute="47")},
    "auto_ab": {"task": "gateway.tasks.auto_ab", "schedule": crontab(hour="2", minute="7")},
    "cost_migration": {"task": "gateway.tasks.cost_migration", "schedule": crontab(hour="2", minute="27")},
    # Every night: a week that was broken off, or had to wait for its bank, is gone on with.
    "replay_execute": {"task": "gateway.tasks.replay_execute", "schedule": crontab(hour="2", minute="47")},
    "usage_report": {"task": "billing.tasks.usage_report", "schedule": crontab(minute="23")},
    "audit_retention": {"task": "billing.tasks.audit_retention", "schedule": crontab(hour="4", minute="7")},
    "retention": {"task": "billing.tasks.remove_old_logs", "schedule": crontab(hour="3", minute="47")},
}
