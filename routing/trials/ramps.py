"""Ramps of cells, as far as experiments and migrations have to know of each other's."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Protocol

from audit.actions import Action
from audit.record import Actor, record
from routing.models import Ramp

LIVE: Final = (Ramp.Status.ACTIVE, Ramp.Status.DONE)
"""Those that requests go by."""


class OfCell(Protocol):
    """Whatever is about a cell; empty means any."""

    task: str
    complexity: str


def concerns(row: OfCell, task: str, complexity: str) -> bool:
    return row.task in ("", task) and row.complexity in ("", complexity)


def any_concerns(rows: Iterable[OfCell], task: str, complexity: str) -> bool:
    return any(concerns(row, task, complexity) for row in rows)


def end_ramp(ramp: Ramp, actor: Actor, reason: str, now: datetime, status: Ramp.Status = Ramp.Status.ENDED) -> None:
    """The cell is the router's again. Within the caller's transaction, who has locked the row."""
    before = {"status": str(ramp.status), "percent": ramp.percent}
    ramp.status, ramp.percent, ramp.since, ramp.reason = status, 0, now, reason[:500]
    ramp.save()
    changes = {
        "status": [before["status"], str(status)],
        "percent": [before["percent"], 0],
        "reason": ["", ramp.reason],
    }
    record(actor, Action.RAMP_ENDED, ramp, tenant=ramp.tenant, changes=changes)
