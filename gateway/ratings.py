"""Ratings as they come in over HTTP: read, and matched with the request they are about."""

import asyncio
import re
import time
import uuid
from datetime import timedelta
from typing import Any, Final

import msgspec
from asgiref.sync import sync_to_async
from django.utils import timezone

from gateway.errors import InvalidRequest, NotFound, RequestTooLarge
from gateway.models import RequestLog
from gateway.policy import TenantPolicy, TokenFacts
from gateway.rows import moment_of
from gateway.wire.types import MalformedJson, decode_fields
from routing.feedback import LONGEST_COMMENT, UnusableRating, rate, value_of
from routing.models import Decision
from tenants.models import Tenant

LARGEST_RATING_BYTES: Final = 64 * 1024
LONGEST_RATER: Final = 254
LOOK_AGAIN_FOR_S: Final = 1.5  # a request is written down beside the traffic, up to half a second after its answer
LOOK_EVERY_S: Final = 0.1
WRITTEN_WITHIN: Final = timedelta(seconds=2)
LONGEST_REQUEST: Final = timedelta(hours=1)
CLOCKS_DIFFER_BY: Final = timedelta(minutes=1)
TIME_ORDERED: Final = 7  # the version of UUID that request ids are

_FIELD_AT_FAULT = re.compile(r"at `\$\.(\w+)|field `(\w+)`")

_MEANT: Final = {
    "request_id": "the id of a request, as in the x-request-id header of its answer",
    "score": "a whole number from 1 to 5",
    "thumbs": "'up' or 'down'",
    "comment": "text",
    "user": "text",
}


class Rating(msgspec.Struct, frozen=True):
    """The body of a rating: a score (1-5) or a thumb; ``user`` is who rates, if it is not the key's owner."""

    request_id: uuid.UUID
    score: int | None = None
    thumbs: str | None = None
    comment: str | None = None
    user: str | None = None

    @property
    def value(self) -> float:
        """0-1. Raises InvalidRequest."""
        try:
            return value_of(self.score, self.thumbs)
        except UnusableRating as exc:
            raise InvalidRequest(str(exc), param="thumbs" if self.thumbs else "score") from None


def read_rating(body: bytes) -> Rating:
    """Raises RequestTooLarge, or InvalidRequest that names the field at fault."""
    if len(body) > LARGEST_RATING_BYTES:
        raise RequestTooLarge(f"A rating has at most {LARGEST_RATING_BYTES} bytes.")
    try:
        decode_fields(body)
        rating = msgspec.json.decode(body, type=Rating)
    except msgspec.ValidationError as exc:
        found = _FIELD_AT_FAULT.search(str(exc))
        wrong, absent = found.groups() if found else (None, None)
        raise InvalidRequest(_explained(str(exc), wrong, absent), param=wrong or absent) from None
    except (MalformedJson, msgspec.DecodeError) as exc:
        raise InvalidRequest(str(exc)) from None
    _check_text("comment", rating.comment, LONGEST_COMMENT)
    _check_text("user", rating.user, LONGEST_RATER)
    _ = rating.value
    return rating


async def keep_rating(policy: TenantPolicy, token: TokenFacts, rating: Rating) -> bool:
    """Keep a rating of one of this project's requests; returns whether the router learns from it.

    Raises NotFound for a request that is not this project's, or not known (any more).
    """
    await _until_written(policy, token, rating.request_id)
    return await sync_to_async(_keep)(policy, token, rating)


def _keep(policy: TenantPolicy, token: TokenFacts, rating: Rating) -> bool:
    rated = rate(
        Tenant.objects.get(pk=policy.id),
        rating.request_id,
        rater=rating.user or token.name,
        value=rating.value,
        comment=rating.comment or "",
        end_user=rating.user or "",
    )
    return rated.learned


async def _until_written(policy: TenantPolicy, token: TokenFacts, request_id: uuid.UUID) -> None:
    """Wait for what is written beside the traffic: a rating may be faster. Raises NotFound."""
    deadline = time.monotonic() + LOOK_AGAIN_FOR_S
    while True:
        known, whole = await sync_to_async(_look)(policy, token, request_id)
        if whole:
            return
        if not is_recent(request_id) or time.monotonic() > deadline:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    if not known:
        raise NotFound(f"There is no request '{request_id}' of this project.", param="request_id")


def _look(policy: TenantPolicy, token: TokenFacts, request_id: uuid.UUID) -> tuple[bool, bool]:
    """Whether the request is known, and whether all is written of it that will be."""
    ours: dict[str, Any] = {"tenant": policy.id, "project_id": token.project_id}
    if Decision.objects.filter(request_id=request_id, **ours).exists():
        return True, True
    row = RequestLog.objects.filter(pk=request_id, **ours).only("requested_model", "started_at", "latency_ms").first()
    if row is None:
        return False, False
    ended_at = row.started_at + timedelta(milliseconds=row.latency_ms)
    named = not policy.leaves_choice(row.requested_model)
    return True, named or ended_at < timezone.now() - WRITTEN_WITHIN


def is_recent(request_id: uuid.UUID) -> bool:
    """Whether a request of this id may have ended just now."""
    if request_id.version != TIME_ORDERED:
        return False
    age = timezone.now() - moment_of(request_id)
    return -CLOCKS_DIFFER_BY < age < LONGEST_REQUEST


def _explained(said: str, wrong: str | None, absent: str | None) -> str:
    if absent is not None:
        return f"'{absent}' is missing: {_MEANT.get(absent, '')}."
    return f"'{wrong}' must be {_MEANT[wrong]}." if wrong in _MEANT else said


def _check_text(name: str, text: str | None, longest: int) -> None:
    if text is None:
        return
    if len(text) > longest:
        raise InvalidRequest(f"'{name}' has at most {longest} characters.", param=name)
    if "\0" in text:
        raise InvalidRequest(f"'{name}' must not contain NUL characters.", param=name)
