"""Background work of the data plane."""

from celery import shared_task
from django.utils import timezone

from audit.jobs import run_job
from billing.alerts import TrippedCircuit, evaluate_rules
from gateway import circuits, partitions
from gateway.models import Model


@shared_task  # type: ignore[untyped-decorator]
def make_partitions() -> str:
    """Keep the partitioned tables ahead of the calendar."""
    return run_job("make_partitions", lambda: {"made": partitions.make_ahead()}).outcome


@shared_task  # type: ignore[untyped-decorator]
def alert_rules() -> str:
    """Look at every alert rule. Here and not with the others, as some are about circuit breakers."""
    return run_job("alert_rules", lambda: evaluate_rules(timezone.now(), _tripped_circuits)).outcome


def _tripped_circuits() -> list[TrippedCircuit] | None:
    """None: nobody can tell at the moment."""
    try:
        found = circuits.circuits_of(Model.objects.filter(enabled=True))
    except circuits.CircuitsUnavailable:
        return None
    return [
        TrippedCircuit(
            id=circuit.way.pk,
            tenant_id=circuit.way.tenant_id,
            model=circuit.way.model.name,
            provider=circuit.way.provider.name,
            since=circuit.since,
        )
        for circuit in found
        if circuit.state != "closed"
    ]
