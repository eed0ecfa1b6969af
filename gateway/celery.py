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


app.conf.beat_schedule = {
    "make_partitions": {"task": "gateway.tasks.make_partitions", "schedule": crontab(hour="3", minute="17")},
    "reap": {"task": "billing.tasks.reap", "schedule": 15.0},
    "roll_up_usage": {"task": "billing.tasks.roll_up_usage", "schedule": 300.0},
    "budget_alerts": {"task": "billing.tasks.budget_alerts", "schedule": 30.0},
    "alert_rules": {"task": "gateway.tasks.alert_rules", "schedule": 60.0},
    "deliver_alerts": {"task": "billing.tasks.deliver_alerts", "schedule": 15.0},
    "remove_old_logs": {"task": "billing.tasks.remove_old_logs", "schedule": crontab(hour="3", minute="47")},
}
