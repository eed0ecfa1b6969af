"""Background work of the data plane."""

from celery import shared_task
from django.utils import timezone

from audit.jobs import SCHEDULE, run_job
from billing.alerts import TrippedCircuit, evaluate_rules
from gateway import circuits, partitions, replaying
from gateway.judging import judge_samples
from gateway.models import Model
from gateway.runtime import routing_facts_of
from routing import moving, trials
from routing.learning import learn as learn_labels


@shared_task  # type: ignore[untyped-decorator]
def make_partitions(started_by: str = SCHEDULE) -> str:
    """Keep the partitioned tables ahead of the calendar."""
    return run_job("make_partitions", lambda: {"made": partitions.make_ahead()}, started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def alert_rules(started_by: str = SCHEDULE) -> str:
    """Look at every alert rule. Here and not with the others, as some are about circuit breakers."""
    return run_job("alert_rules", lambda: evaluate_rules(timezone.now(), _tripped_circuits), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def judge(started_by: str = SCHEDULE) -> str:
    """Judge the answers that wait for it."""
    return run_job("judge", lambda: judge_samples(timezone.now()), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def learn(started_by: str = SCHEDULE) -> str:
    """Let routers learn from new ratings, in one order for all."""
    return run_job("learn", lambda: learn_labels(timezone.now(), routing_facts_of), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def auto_ab(started_by: str = SCHEDULE) -> str:
    """Begin experiments on cells whose two best models are tied."""
    return run_job("auto_ab", lambda: trials.auto_ab(timezone.now(), routing_facts_of), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def cost_migration(started_by: str = SCHEDULE) -> str:
    """Move cells to cheaper models that are shown to be as good, a step further or back."""
    return run_job(
        "cost_migration", lambda: moving.cost_migration(timezone.now(), routing_facts_of), started_by
    ).outcome


@shared_task  # type: ignore[untyped-decorator]
def replay_bank_populate(started_by: str = SCHEDULE) -> str:
    """Draw conversations to ask again out of those that were judged."""
    return run_job("replay_bank_populate", lambda: replaying.populate(timezone.now()), started_by).outcome


@shared_task  # type: ignore[untyped-decorator]
def replay_execute(started_by: str = SCHEDULE) -> str:
    """Ask this week's conversations again, and see which models have changed."""
    return run_job("replay_execute", lambda: replaying.execute(timezone.now()), started_by).outcome


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
