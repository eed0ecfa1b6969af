"""What people think of answers: kept as they say it, and learned from where a router chose the model."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import transaction

from routing.models import Decision, Feedback, Label, RoutingSettings
from tenants.models import Tenant

LONGEST_COMMENT: Final = 2_000
LOWEST, HIGHEST = 1, 5
THUMBS: Final = {"up": 1.0, "down": 0.0}


class UnusableRating(ValueError):
    """A rating that says nothing, or too much. The message is for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A rating that is kept. ``learned``: the router takes it in."""

    feedback: Feedback
    learned: bool


def value_of(score: int | None, thumbs: str | None) -> float:
    """A score from 1 to 5, or a thumb up or down, as 0-1. Raises UnusableRating."""
    if (score is None) == (thumbs is None):
        raise UnusableRating("Give either 'score' (1 to 5) or 'thumbs' ('up' or 'down').")
    if thumbs is not None:
        if thumbs not in THUMBS:
            raise UnusableRating("'thumbs' is 'up' or 'down'.")
        return THUMBS[thumbs]
    if score is None or isinstance(score, bool) or not LOWEST <= score <= HIGHEST:
        raise UnusableRating(f"'score' is a whole number from {LOWEST} to {HIGHEST}.")
    return (score - LOWEST) / (HIGHEST - LOWEST)


@transaction.atomic
def rate(tenant: Tenant, request_id: UUID, *, rater: str, value: float, comment: str = "", end_user: str = "") -> Rated:
    """Keep what ``rater`` thinks of an answer (0-1), in the place of what they thought before.

    The router learns a rater's first opinion of an answer, if it chose that answer's model; a label it has taken in is
    never changed. ``end_user`` is the rater where it is one, and the request names none.

    Raises UnusableRating for a comment that is too long.
    """
    if len(comment) > LONGEST_COMMENT:
        raise UnusableRating(f"A comment has at most {LONGEST_COMMENT} characters.")
    feedback, _ = Feedback.objects.update_or_create(
        tenant=tenant, request_id=request_id, rater=rater[:254], defaults={"value": value, "comment": comment}
    )
    decision = Decision.objects.filter(tenant=tenant, request_id=request_id).exclude(model_name="").first()
    return Rated(feedback, decision is not None and _learn_from(tenant, decision, feedback, end_user))


def _learn_from(tenant: Tenant, decision: Decision, feedback: Feedback, end_user: str) -> bool:
    values = {
        "value": feedback.value,
        "variance": 0.0,
        "task": decision.task,
        "complexity": decision.complexity,
        "vector": bytes(decision.vector),
        "end_user": decision.end_user or end_user[:200],
        "shared": RoutingSettings.of(tenant).feeds_shared,
    }
    label, is_new = Label.objects.get_or_create(
        tenant=tenant,
        request_id=decision.request_id,
        model_name=decision.model_name,
        rater=Label.Rater.USER,
        rater_name=feedback.rater,
        defaults=values,
    )
    if is_new:
        return True
    return Label.objects.filter(pk=label.pk, position=None).update(value=feedback.value) > 0
