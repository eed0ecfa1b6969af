"""The one applier: labels in order into each tenant's beliefs.

Labels are written by many (people, judges) and take effect here, in one order that is the same for everybody: the
applier gives each a position, and an engine's state says up to which position it has learned. A run that dies half-way
leaves whole steps behind; running twice, or on two workers, changes nothing. What is wrong with one tenant is that
tenant's alone.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from gateway.rows import first_id
from routing.engine import Engine, EngineSettings, UnreadableState
from routing.facts import RoutingFacts
from routing.learners import Learner, learner_of
from routing.models import Decision, DriftWatch, Label, RouterState, RoutingSettings
from routing.observed_answers import LONGEST_REQUEST, answers_after
from routing.steering import JUDGING as JUDGING
from routing.steering import cost_weight, judge_probability, midnight
from routing.steering import judging_usd as judging_usd
from tenants.models import Tenant

logger = logging.getLogger(__name__)

MOST_LABELS: Final = 2_000  # of one tenant, a run: a long backlog takes several
SLOWEST_WITHIN: Final = timedelta(minutes=15)
BEGINNERS_ANSWERS: Final = 500
USERS_SHARE: Final = 0.05
USERS_FREE_LABELS: Final = 3  # of one model and end user a day, before the share counts
OTHERS_VARIANCE: Final = 0.15**2  # a label of another tenant's tells so much less of ours
BY_RATINGS: Final = ", by its latest ratings"  # how the reason of an alarm ends that replay has no part in

FactsOf = Callable[[UUID], RoutingFacts | None]


@dataclass(slots=True)
class _Step:
    """What one tenant's step did. ``looked_at``: labels it passed, learned or not."""

    looked_at: int = 0
    labels: int = 0
    decisions: int = 0
    noticed: list[str] = field(default_factory=list)


def learn(now: datetime, facts_of: FactsOf) -> dict[str, Any]:
    """Learn what there is to learn. Returns for the job's record: ``labels``, ``decisions``, ``left_out``, ``tenants``,
    what was ``noticed`` of models, and of which tenants nothing could be learned (``failed``).

    ``facts_of`` tells what a tenant's router may choose from; None for one that is switched off.
    """
    facts_of = cache(facts_of)
    left_out = give_positions(now, facts_of)
    total = _Step()
    tenants, failed = 0, []
    for tenant in _tenants_with_news(now):
        try:
            facts = facts_of(tenant.pk)
            if facts is None or not facts.contestants:
                continue
            step = _advance(tenant, facts, now)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("the router of tenant %s cannot learn", tenant.slug)
            failed.append(tenant.slug)
            continue
        tenants += 1
        total.labels += step.labels
        total.decisions += step.decisions
        total.noticed += [f"{tenant.slug}: {what}" for what in step.noticed]
    return {
        "tenants": tenants,
        "labels": total.labels,
        "decisions": total.decisions,
        "left_out": left_out,
        "noticed": total.noticed,
        "failed": failed,
    }


def rebuild(tenant: Tenant, facts: RoutingFacts, now: datetime) -> int:
    """Forget a tenant's beliefs and learn all its labels again, in their order; what is known of lengths and latencies
    stays. Returns how many it learned. One that breaks off is gone on with by :func:`learn`."""
    _forget(tenant, facts)
    learned = 0
    while (step := _advance(tenant, facts, now)).looked_at:
        learned += step.labels
    return learned


@transaction.atomic
def _forget(tenant: Tenant, facts: RoutingFacts) -> None:
    state = _locked_state(tenant, facts.engine)
    fresh = learner_of(facts, b"")
    try:
        fresh.experience = learner_of(facts, bytes(state.state)).experience
    except UnreadableState:
        state.observed_id = None
    state.position, state.labels = 0, 0
    _keep(state, fresh)


@transaction.atomic
def reopen(tenant: Tenant, model: str) -> bool:
    """A model may have changed: keep what is expected of it, and be unsure of it again. False where nothing is
    believed of it."""
    state = RouterState.objects.select_for_update().filter(tenant=tenant, engine="hier").first()
    if state is None or not state.state:
        return False
    try:
        engine = Engine.from_bytes(bytes(state.state))
    except UnreadableState:
        return False
    if model not in engine.models:
        return False
    engine.reopen(model)
    state.state, state.version = engine.to_bytes(), state.version + 1
    state.save()
    return True


# ---------------------------------------------------------------------- the order of labels


@transaction.atomic
def give_positions(now: datetime, facts_of: FactsOf) -> int:
    """Put new labels at the end of the order. One end user can make up only so much of a model's labels a day: what is
    more gets a position too, but is left out. Returns how many were."""
    new = list(Label.objects.select_for_update().filter(position=None).order_by("id")[: 10 * MOST_LABELS])
    if not new:
        return 0
    shares = _Shares(now, {label.tenant_id for label in new if label.end_user})
    identities = _identities({label.tenant_id for label in new if label.shared}, facts_of)
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('routing_label_position') FROM generate_series(1, %s)", [len(new)])
        positions = [row[0] for row in cursor.fetchall()]
    for label, position in zip(new, positions, strict=True):
        label.position = position
        if label.shared:
            label.identity = identities[label.tenant_id].get(label.model_name, "")
        if not shares.admit(label):
            label.left_out = "too many of one end user"
    Label.objects.bulk_update(new, ("position", "left_out", "identity"), batch_size=500)
    return sum(1 for label in new if label.left_out)


def _identities(tenants: Iterable[UUID], facts_of: FactsOf) -> dict[UUID, dict[str, str]]:
    """What models of these tenants are called everywhere, by tenant and name."""
    found: dict[UUID, dict[str, str]] = {}
    for tenant_id in tenants:
        try:
            facts = facts_of(tenant_id)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("nobody can tell the models of tenant %s", tenant_id)
            facts = None
        found[tenant_id] = dict(facts.identities) if facts is not None else {}
    return found


class _Shares:
    """How much of each model's labels of today each end user has given. Judges' and rules' labels are nobody's."""

    def __init__(self, now: datetime, tenants: Iterable[UUID]) -> None:
        counted = Label.objects.filter(tenant__in=list(tenants), id__gte=first_id(midnight(now)), left_out="")
        rows = list(counted.exclude(position=None).values_list("tenant_id", "model_name", "end_user", "rater"))
        self._of_user = Counter(row[:3] for row in rows if row[3] == Label.Rater.USER)
        self._of_model = Counter(row[:2] for row in rows)

    def admit(self, label: Label) -> bool:
        """Count a label in, unless its end user has given too many."""
        model = (label.tenant_id, label.model_name)
        if label.rater == Label.Rater.USER and label.end_user:
            user = (*model, label.end_user)
            most = max(USERS_FREE_LABELS, USERS_SHARE * (self._of_model[model] + 1))
            if self._of_user[user] + 1 > most:
                return False
            self._of_user[user] += 1
        self._of_model[model] += 1
        return True


# ---------------------------------------------------------------------- one tenant's step


def _tenants_with_news(now: datetime) -> QuerySet[Tenant]:
    """Those with labels or decisions that the router they use has not taken in."""
    own = RoutingSettings.objects.filter(tenant=OuterRef("pk"))
    of_engine = RouterState.objects.filter(tenant=OuterRef("pk"), engine=OuterRef("used_engine"))
    later = Label.objects.filter(position__gt=OuterRef("learned_up_to"))
    recent = first_id(now - LONGEST_REQUEST - timedelta(minutes=10))
    return (
        Tenant.objects.filter(enabled=True)
        .annotate(used_engine=Coalesce(Subquery(own.values("engine")[:1]), Value("hier")))
        .annotate(learned_up_to=Coalesce(Subquery(of_engine.values("position")[:1]), Value(0)))
        .filter(
            Q(Exists(later.filter(tenant=OuterRef("pk"))))
            | Q(Exists(own.filter(reads_shared=True))) & Q(Exists(later.filter(shared=True)))
            | Q(Exists(Decision.objects.filter(tenant=OuterRef("pk"), request_id__gte=recent)))
        )
        .order_by("pk")
    )


@transaction.atomic
def _advance(tenant: Tenant, facts: RoutingFacts, now: datetime) -> _Step:
    """Bring one tenant's state up to now, as far as one step goes."""
    state = _locked_state(tenant, facts.engine)
    settings = RoutingSettings.of(tenant)
    step = _Step()
    learner = _learner_at(state, facts, step)
    for model, noticed in _learn_labels(learner, _new_labels(state, settings), state, facts, step):
        step.noticed.append(noticed)
        alarm = {"alarmed_at": now, "reason": f"{noticed}{BY_RATINGS}"}
        DriftWatch.objects.update_or_create(tenant=tenant, model_name=model, defaults=alarm)
    seen, reached = answers_after(tenant.pk, state.observed_id, now)
    for answered in seen:
        if answered.model_name in facts.contestants and answered.output_tokens:
            latency_s = answered.latency_ms / 1000
            learner.experience.observe(answered.model_name, answered.task, answered.output_tokens, latency_s)
    step.decisions = len(seen)
    judging = judge_probability(tenant, settings, now)
    weight = cost_weight(state.cost_weight, settings.usd_per_1000_requests, seen)
    steered = (judging, weight) != (state.judge_probability, state.cost_weight)
    if step.labels or step.decisions or step.noticed or steered:
        state.observed_id = reached
        state.judge_probability, state.cost_weight = judging, weight
        _keep(state, learner)
    elif step.looked_at:
        state.save(update_fields=("position", "updated_at"))
    return step


def _locked_state(tenant: Tenant, engine: str) -> RouterState:
    state, _ = RouterState.objects.get_or_create(tenant=tenant, engine=engine)
    return RouterState.objects.select_for_update().get(pk=state.pk)


def _keep(state: RouterState, learner: Learner) -> None:
    state.state, state.version = learner.to_bytes(), state.version + 1
    state.save()


def _learner_at(state: RouterState, facts: RoutingFacts, step: _Step) -> Learner:
    """The engine of a state. One that cannot be read is begun anew: labels are the truth, and all are still there."""
    try:
        return learner_of(facts, bytes(state.state))
    except UnreadableState as exc:
        logger.warning("the router of tenant %s learns all anew: %s", state.tenant_id, exc)
        step.noticed.append("its beliefs could not be read and are learned anew")
        state.position, state.labels, state.observed_id = 0, 0, None
        return learner_of(facts, b"")


def _learn_labels(
    learner: Learner, labels: Iterable[Label], state: RouterState, facts: RoutingFacts, step: _Step
) -> list[tuple[str, str]]:
    """In their order, each once; what does not concern this router is passed, and so is what cannot be used. Returns
    what was noticed, with the model."""
    ours = {identity: name for name, identity in facts.identities.items()}
    found = []
    for label in labels:
        step.looked_at += 1
        state.position = label.position or state.position
        model, variance = _as_ours(label, state, facts, ours)
        if model is None:
            continue
        try:
            noticed = learner.learn(label, model, variance)
        except ValueError as exc:
            logger.warning("label %s cannot be learned: %s", label.pk, exc)
            continue
        step.labels += 1
        if noticed:
            found.append((model, noticed))
    state.labels += step.labels
    return found


def _new_labels(state: RouterState, settings: RoutingSettings) -> QuerySet[Label]:
    """A tenant's own labels after its position, and others' that they share, where it reads such."""
    whose = Q(tenant=state.tenant_id)
    if settings.reads_shared:
        whose |= Q(shared=True)
    return Label.objects.filter(whose, position__gt=state.position).order_by("position")[:MOST_LABELS]


def _as_ours(
    label: Label, state: RouterState, facts: RoutingFacts, ours: dict[str, str]
) -> tuple[str | None, float | None]:
    """Our name of a label's model, None where there is none, and the variance of its rater."""
    if label.left_out:
        return None, None
    if label.tenant_id == state.tenant_id:
        return label.model_name if label.model_name in facts.contestants else None, label.variance
    own = EngineSettings().judge_sd ** 2 if label.variance is None else label.variance
    return ours.get(label.identity) if label.identity else None, own + OTHERS_VARIANCE
