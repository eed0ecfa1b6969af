"""The Celery application and, nowhere else, its schedule."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

app = Celery("pointsman")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "make_partitions": {"task": "gateway.tasks.make_partitions", "schedule": crontab(hour="3", minute="17")},
}
