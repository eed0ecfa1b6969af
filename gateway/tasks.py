"""Background work of the data plane."""

from celery import shared_task

from gateway import partitions


@shared_task  # type: ignore[untyped-decorator]
def make_partitions() -> int:
    """Keep the partitioned tables ahead of the calendar."""
    return partitions.make_ahead()
