"""Cost migration on the database: cells that could go to a cheaper model are found, moved step by step, and moved back
at the first certain harm. What is certain, :mod:`routing.migration` says."""

from datetime import datetime
from typing import Any

from routing.learning import FactsOf
from routing.moving.proposing import begin_ramps
from routing.moving.stepping import step_ramps

__all__ = ["cost_migration"]


def cost_migration(now: datetime, facts_of: FactsOf) -> dict[str, Any]:
    """Take the ramps under way a step further where that is due, then begin new ones. Returns for the job's record how
    many were ``begun``, ``advanced``, are ``done``, were ``rolled_back`` or ``failed``, and what is ``told`` of them.

    ``facts_of`` tells what a tenant's router may choose from; None for one that is switched off. Ramps made by hand or
    won in an experiment are left alone. Running twice, or on two workers, changes nothing.
    """
    stepped, begun = step_ramps(now), begin_ramps(now, facts_of)
    skipped = sorted({*stepped.get("not_in_plan", ()), *begun.get("not_in_plan", ())})
    return {
        "begun": begun["begun"],
        "advanced": stepped["advanced"],
        "done": stepped["done"],
        "rolled_back": stepped["rolled_back"],
        "failed": stepped["failed"] + begun["failed"],
        "told": [*stepped["told"], *begun["told"]],
        **({"not_in_plan": skipped} if skipped else {}),
    }
