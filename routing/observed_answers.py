"""What answers took: read once each, in the order in which they ended.

A request's row bears the time of its beginning and is written at its end, which may be many minutes later. Reading rows
in the order of their keys would pass over the slow ones for good, and take the fast ones for all there are.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from django.db import connection

from gateway.rows import first_id, moment_of

WRITTEN_WITHIN: Final = timedelta(seconds=3)  # of an answer's end: decisions are written beside the traffic
LONGEST_REQUEST: Final = timedelta(minutes=15)
READ_BACK: Final = timedelta(days=1)  # by whoever has read none yet, or not for long
MOST_AT_ONCE: Final = 5_000
_AT_A_TIME: Final = timedelta(hours=1)
_MILLISECOND: Final = timedelta(milliseconds=1)

_ENDED_BETWEEN = """
SELECT model_name, task, output_tokens, latency_ms, cost_usd, ended_ms FROM (
  SELECT model_name, task, output_tokens, latency_ms, cost_usd, request_id,
    ('x' || translate(left(request_id::text, 13), '-', ''))::bit(48)::bigint + floor(latency_ms)::bigint AS ended_ms
  FROM routing_decision
  WHERE tenant_id = %s AND status = 200 AND request_id >= %s AND request_id < %s) answers
WHERE ended_ms > %s AND ended_ms <= %s
ORDER BY ended_ms, request_id
LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """One routed answer. ``cost_usd`` is None where no price is known; ``ended_ms`` since 1970."""

    model_name: str
    task: str
    output_tokens: int
    latency_ms: float
    cost_usd: Decimal | None
    ended_ms: int


def answers_after(tenant_id: UUID, reached: UUID | None, now: datetime) -> tuple[list[Answered], UUID | None]:
    """Answers that ended after the moment of ``reached``, at most MOST_AT_ONCE, and up to where this has come: the
    ``reached`` of the next look. None begins a day ago."""
    until = now - WRITTEN_WITHIN
    since = max(moment_of(reached) if reached is not None else until - READ_BACK, until - READ_BACK)
    while since < until:
        end = min(until, since + _AT_A_TIME)
        found = _ended_between(tenant_id, since, end)
        if found:
            return found, first_id(_moment(found[-1].ended_ms))
        if end == until:
            break
        since = end
    return [], reached


def _ended_between(tenant_id: UUID, since: datetime, until: datetime) -> list[Answered]:
    """All of a millisecond or none of it, as that is how exactly a place is kept."""
    with connection.cursor() as cursor:
        begun = first_id(since - LONGEST_REQUEST), first_id(until + _MILLISECOND)
        cursor.execute(_ENDED_BETWEEN, [tenant_id, *begun, _ms(since), _ms(until), MOST_AT_ONCE + 1])
        found = [Answered(*row) for row in cursor.fetchall()]
    if len(found) <= MOST_AT_ONCE:
        return found
    whole = [answered for answered in found if answered.ended_ms < found[-1].ended_ms]
    return whole or found


def _ms(moment: datetime) -> int:
    return first_id(moment).int >> 80


def _moment(ended_ms: int) -> datetime:
    return moment_of(UUID(int=ended_ms << 80))
