"""Rows as routed traffic, judges and the ledger leave them, in any number, for tests of what is concluded from them."""

import itertools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
from django.db import connection
from django.db.models.expressions import DatabaseDefault

from audit.models import AuditEvent
from billing.models import Attempt, Settlement
from gateway.models import Model
from gateway.rows import moment_of, new_id
from routing.candidates import Contestant
from routing.decision_log import stored_vector
from routing.facts import RoutingFacts
from routing.features import FeatureSpace
from routing.models import Decision, Label
from tenants.models import Tenant
from tests.ledger_rows import id_at
from tests.routing.candidates_kept import kept

CELL = ("coding", "complex")
SPACE = FeatureSpace()
VECTOR = stored_vector(SPACE.features("write a sorting function", *CELL, input_tokens=20).vector)
SETTLED = timedelta(hours=1)
"""After the last row, until everything counts."""

_positions = itertools.count(1)


def facts(**changed: Any) -> RoutingFacts:
    """A tenant whose answers are judged, with three models of known prices."""
    known = {"judges": True, "contestants": contestants(old=10.0, new=2.0, other=5.0)}
    return RoutingFacts(**(known | changed))


def contestants(**output_prices: float | None) -> dict[str, Contestant]:
    return {
        name: Contestant(name, "lab", "demo", input_price=None if price is None else price / 4, output_price=price)
        for name, price in output_prices.items()
    }


def weighed(**means: float) -> dict[str, list[Any]]:
    """Candidates by column; a model costs in USD per 1,000 requests what ``COSTS`` says."""
    names = list(means)
    costs = [COSTS.get(name, 5.0) for name in names]
    nothing = [0.0] * len(names)
    odds = [1.0, *nothing[1:]]
    return {
        "model": names,
        "mean": list(means.values()),
        "sd": nothing,
        "cost": costs,
        "penalty": nothing,
        "propensity": odds,
    }


COSTS: Mapping[str, float] = {"old": 10.0, "new": 4.0, "other": 9.0}


class Traffic:
    """One tenant's. Rows are collected, and written at once by ``write``."""

    def __init__(self, tenant: Tenant, seed: int = 0) -> None:
        self.tenant, self.rng = tenant, np.random.default_rng(seed)
        self.decisions: list[Decision] = []
        self.labels: list[Label] = []
        self.attempts: list[Attempt] = []
        self.settlements: list[Settlement] = []

    def decided(self, at: datetime, model: str, **changed: Any) -> Decision:
        """A request that the router gave to ``model``, which answered it."""
        values: dict[str, Any] = {
            "request_id": id_at(at),
            "tenant": self.tenant,
            "project_id": self.tenant.pk,
            "token_id": self.tenant.pk,
            "strategy": "balanced",
            "engine": "hier",
            "task": CELL[0],
            "complexity": CELL[1],
            "confidence": 0.9,
            "vector": VECTOR,
            "input_tokens": 20,
            "chosen": model,
            "propensity": 1.0,
            "candidates": weighed(old=0.8, new=0.78, other=0.6),
            "reason": "best score",
            "judged": True,
            "judge_probability": 1.0,
            "model_name": model,
            "status": 200,
            "output_tokens": 100,
            "cost_usd": Decimal(repr(COSTS.get(model, 5.0))) / 1000,
            "latency_ms": float(900 * self.rng.lognormal(0, 0.4)),
        }
        values |= changed
        decision = Decision(**kept(values.pop("candidates")), **values)
        self.decisions.append(decision)
        return decision

    def judged(self, decision: Decision, value: float, model: str = "", **changed: Any) -> Label:
        """What a judge said of the answer, or of another model's beside it, half a minute later."""
        at = moment(decision) + timedelta(seconds=30)
        values: dict[str, Any] = {
            "id": id_at(at),
            "tenant": self.tenant,
            "request_id": decision.request_id,
            "model_name": model or decision.model_name,
            "rater": Label.Rater.JUDGE,
            "rater_name": "judge",
            "value": value,
            "task": decision.task,
            "complexity": decision.complexity,
            "vector": VECTOR,
            "position": next(_positions),
            "created_at": at,
        }
        label = Label(**(values | changed))
        self.labels.append(label)
        return label

    def judged_pair(self, decision: Decision, control: float, challenger: float) -> None:
        self.judged(decision, control, paired=True)
        self.judged(decision, challenger, decision.challenger, paired=True)

    def paid(self, decision: Decision, model: Model, usd: Decimal, purpose: str = "serve", **changed: Any) -> None:
        """The ledger's line of a call for this request."""
        at = moment(decision) + timedelta(milliseconds=5)
        attempt = Attempt(
            id=id_at(at), request_id=decision.request_id, tenant=self.tenant, purpose=purpose, provider=model.provider,
            model=model, vendor_model=model.vendor_model, process_id=new_id(), started_at=at,
        )  # fmt: skip
        values: dict[str, Any] = {
            "outcome": Settlement.Outcome.SETTLED,
            "usage_source": Settlement.UsageSource.VENDOR,
            "cost_usd": usd,
            "ended_at": at + timedelta(milliseconds=700),
        }
        self.attempts.append(attempt)
        self.settlements.append(Settlement(attempt=attempt, tenant=self.tenant, **(values | changed)))

    def write(self) -> None:
        rows: list[Any]
        for rows in (self.decisions, self.labels, self.attempts, self.settlements):
            if rows:
                _insert(rows)
                rows.clear()


def _insert(rows: list[Any]) -> None:
    """All in one statement: there are thousands. What the database fills in itself is left to it."""
    table = rows[0]._meta.db_table
    columns = {
        field.column: field.attname
        for field in rows[0]._meta.concrete_fields
        if not isinstance(getattr(rows[0], field.attname), DatabaseDefault)
    }
    values = [{column: getattr(row, name) for column, name in columns.items()} for row in rows]
    names = ", ".join(columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, %s::json)",
            [json.dumps(values, default=lambda value: f"\\x{value.hex()}" if isinstance(value, bytes) else str(value))],
        )


def moment(decision: Decision) -> datetime:
    return moment_of(decision.request_id)


def moments(start: datetime, count: int, lasting: timedelta) -> Iterable[datetime]:
    """So many, evenly."""
    return (start + lasting * (number / count) for number in range(count))


def happened(tenant: Tenant) -> list[str]:
    """The names of the acts in the tenant's audit trail, in order."""
    return list(AuditEvent.objects.filter(tenant=tenant).order_by("sequence").values_list("action", flat=True))


def facts_of_all(known: RoutingFacts) -> Any:
    def facts_of(tenant_id: UUID) -> RoutingFacts:
        return known

    return facts_of
