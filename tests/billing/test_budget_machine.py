"""Nested budgets against a model of them: whatever is reserved, settled, lost, changed or rolled over, in any order,
the database says what the model says, and no hard cap is passed.

``BUDGET_MACHINE_RUNS`` and ``BUDGET_MACHINE_STEPS`` make it longer (nightly: 100 runs of 200 steps).
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs

from billing.budgets import BudgetFacts, Period, period_of
from billing.windows import Window
from tests.provision import Database

from .conftest import Charged, make_charged, new_id

RUNS = int(os.environ.get("BUDGET_MACHINE_RUNS", "12"))
STEPS = int(os.environ.get("BUDGET_MACHINE_STEPS", "30"))
PICO = Decimal(1).scaleb(-12)
UNLIMITED = 10**15  # pico-USD


@dataclass
class Kept:
    """One budget as it should be: by period, what is spent and held."""

    facts: BudgetFacts
    cap: Decimal
    spent: dict[str, Decimal] = field(default_factory=dict)
    held: dict[str, Decimal] = field(default_factory=dict)

    def room(self, period: str) -> Decimal:
        return self.cap - self.spent.get(period, Decimal(0)) - self.held.get(period, Decimal(0))


@dataclass
class Open:
    id: str
    holds: dict[str, Decimal]  # by period
    of: dict[str, Kept]  # whose these periods are
    usd: Decimal
    requests: int


class Budgets(RuleBasedStateMachine):
    charged: Charged
    connection: psycopg.Connection[Any]

    @initialize(
        caps=st.lists(
            st.tuples(
                st.sampled_from(["usd", "tokens", "requests"]),
                st.integers(0, 60),
                st.booleans(),
                st.sampled_from(["hour", "day"]),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def begin(self, caps: list[tuple[str, int, bool, str]]) -> None:
        self.now = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
        self.open: list[Open] = []
        self.done: list[Open] = []
        self.budgets = [self._declare(*cap) for cap in caps]
        self.epoch = self.charged.epoch()

    def _declare(self, metric: str, cap: int, hard: bool, period: str) -> Kept:
        amount = Decimal(cap) * (Decimal("0.000001") if metric == "usd" else 1)
        facts = BudgetFacts(new_id(), new_id(), self.charged.tenant_id, "tenant", "", metric, hard, Window(period))
        self.connection.execute(
            "INSERT INTO billing_budget (id, created_at, updated_at, tenant_id, name, scope, subject, metric, cap, period,"
            " hard, thresholds, enabled, is_quota)"
            " VALUES (%s, now(), now(), %s, %s, 'tenant', '', %s, %s, %s, %s, '{}', true, false)",
            [facts.id, self.charged.tenant_id, facts.name, metric, amount, period, hard],
        )
        return Kept(facts, amount)

    # ------------------------------------------------------------------ what can happen

    @rule(
        asked=st.lists(
            st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 3), st.sampled_from([0, 1]), st.booleans()),
            min_size=1,
            max_size=4,
        )
    )
    def admit(self, asked: list[tuple[int, int, int, int, bool]]) -> None:
        """A batch; each (prompt, answer, price, counts as a request, patient) in units of a micro-USD or a token."""
        periods = [period_of(kept.facts, "", self.now) for kept in self.budgets]
        batch = [self._row(*one) for one in asked]
        told = self._call("SELECT pointsman_admit(%s, %s, %s)", new_id(), batch, _numbered(periods))
        answers = {line[:36]: line[37:].split(" ") for line in told}
        for row in batch:
            verdict, *numbers = answers[row["id"]]
            if verdict == "admitted":
                self._admitted(row, int(numbers[0]), periods)
            else:
                self._refused(row, verdict, int(numbers[0]), periods)

    def _row(self, prompt: int, answer: int, price: int, requests: int, patient: bool) -> dict[str, Any]:
        attempt = structs.asdict(self.charged.attempt(policy_epoch=self.epoch))
        del attempt["reservation"]
        return attempt | {
            "budgets": list(range(len(self.budgets))), "input_pico": prompt * price * 10**6, "output_pico": price * 10**6,
            "likely_pico": prompt * price * 10**6, "input_tokens": prompt, "likely_tokens": prompt, "output_tokens": answer,
            "choices": 1, "requests": requests, "patient": patient,
        }  # fmt: skip

    def _admitted(self, row: dict[str, Any], granted: int, periods: list[Period]) -> None:
        assert granted <= row["output_tokens"]
        usd = (row["input_pico"] + granted * row["output_pico"]) * PICO
        amounts = {"usd": usd, "tokens": Decimal(row["input_tokens"] + granted), "requests": Decimal(row["requests"])}
        attempt = Open(row["id"], {}, {}, usd, row["requests"])
        for kept, period in zip(self.budgets, periods, strict=True):
            amount = amounts[kept.facts.metric]
            if kept.facts.hard:
                assert amount <= kept.room(period.id), "a hard cap was passed"
            kept.held[period.id] = kept.held.get(period.id, Decimal(0)) + amount
            attempt.holds[period.id], attempt.of[period.id] = amount, kept
        self.open.append(attempt)

    def _refused(self, row: dict[str, Any], verdict: str, number: int, periods: list[Period]) -> None:
        """It is refused for a reason: with its smallest answer it fits less than there is."""
        kept, period = self.budgets[number], periods[number]
        least = min(row["output_tokens"], 1)
        needed = {
            "usd": (row["input_pico"] + least * row["output_pico"]) * PICO,
            "tokens": Decimal(row["input_tokens"] + least),
            "requests": Decimal(row["requests"]),
        }[kept.facts.metric]
        assert kept.facts.hard
        unspent = kept.cap - kept.spent.get(period.id, Decimal(0))
        if verdict == "full":
            assert needed > unspent or unspent <= 0
        else:
            assert verdict == "waiting"
            assert kept.held.get(period.id, Decimal(0)) > 0
            assert needed <= unspent

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99), share=st.integers(0, 100), twice=st.booleans())
    def settle(self, which: int, share: int, twice: bool) -> None:
        """At any part of what was held; a second settlement, whatever it says, changes nothing."""
        attempt = self.open.pop(which % len(self.open))
        tokens = int(
            max(
                (hold for period, hold in attempt.holds.items() if attempt.of[period].facts.metric == "tokens"),
                default=0,
            )
        )
        used, cost = tokens * share // 100, int(attempt.usd / PICO) * share // 100
        for count in (used, used + 5)[: 1 + twice]:
            self._settle(attempt, "settled", count, cost)
        self._give_back(attempt, {"usd": cost * PICO, "tokens": Decimal(used), "requests": Decimal(attempt.requests)})

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99))
    def withdraw(self, which: int) -> None:
        """Never sent: nothing is used."""
        attempt = self.open.pop(which % len(self.open))
        self._call("SELECT pointsman_withdraw(%s)", [attempt.id])
        self._give_back(attempt, {"usd": Decimal(0), "tokens": Decimal(0), "requests": Decimal(0)})

    @precondition(lambda self: self.open)
    @rule()
    def crash(self) -> None:
        """The process is gone; the reaper closes what it left at what it held."""
        for attempt in self.open:
            self._settle(attempt, "abandoned", 0, int(attempt.usd / PICO))
            self._give_back(attempt, {"usd": attempt.usd, "tokens": Decimal(0), "requests": Decimal(attempt.requests)})
        self.open.clear()

    @precondition(lambda self: self.done)
    @rule(which=st.integers(0, 99))
    def settle_too_late(self, which: int) -> None:
        self._settle(self.done[which % len(self.done)], "settled", 7, 7 * 10**6)

    @rule(which=st.integers(0, 99), cap=st.integers(0, 80))
    def change_cap(self, which: int, cap: int) -> None:
        kept = self.budgets[which % len(self.budgets)]
        kept.cap = Decimal(cap) * (Decimal("0.000001") if kept.facts.metric == "usd" else 1)
        self.connection.execute("UPDATE billing_budget SET cap = %s WHERE id = %s", [kept.cap, kept.facts.id])
        self.epoch = self.charged.epoch()

    @rule(minutes=st.sampled_from([1, 29, 31, 600, 1500]))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def the_database_says_the_same(self) -> None:
        if not hasattr(self, "budgets"):
            return
        rows = self.connection.execute(
            "SELECT id::text, spent, held FROM billing_budgetperiod WHERE budget_id = ANY(%s)",
            [[kept.facts.id for kept in self.budgets]],
        ).fetchall()
        found = {period: (spent, held) for period, spent, held in rows}
        for kept in self.budgets:
            for period in kept.held:
                assert found[period] == (kept.spent.get(period, Decimal(0)), kept.held[period])

    # ------------------------------------------------------------------ how

    def _settle(self, attempt: Open, outcome: str, tokens: int, cost_pico: int) -> None:
        settlement = structs.asdict(self.charged.settlement(attempt.id, outcome=outcome, cost_pico=cost_pico))
        settlement["usage"] = structs.asdict(settlement["usage"]) | {"input": 0, "output": tokens}
        self._call("SELECT pointsman_settle(%s)", [settlement])

    def _give_back(self, attempt: Open, used: dict[str, Decimal]) -> None:
        for period, hold in attempt.holds.items():
            kept = attempt.of[period]
            kept.held[period] -= hold
            kept.spent[period] = kept.spent.get(period, Decimal(0)) + used[kept.facts.metric]
        self.done.append(attempt)

    def _call(self, statement: str, *values: Any) -> list[str]:
        parameters = [value if isinstance(value, str) else json.dumps(value, default=list) for value in values]
        return [row[0] for row in self.connection.execute(statement, parameters).fetchall()]


def _numbered(periods: list[Period]) -> list[dict[str, Any]]:
    return [structs.asdict(period) | {"n": number} for number, period in enumerate(periods)]


@pytest.fixture
def machine(fresh_database: Database) -> Iterator[type[Budgets]]:
    with psycopg.connect(fresh_database.url, autocommit=True) as connection:
        Budgets.charged, Budgets.connection = make_charged(fresh_database.url), connection
        yield Budgets


def test_nested_budgets_are_exact_in_any_order_of_events(machine: type[Budgets]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=RUNS, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
