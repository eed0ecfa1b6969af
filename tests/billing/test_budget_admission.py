"""Budgets at admission and settlement, in a real PostgreSQL: what is refused, held, given back and counted."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec import structs

from billing.admission import refusal
from billing.budgets import BudgetFacts, Reservation, period_of
from billing.ledger import STALE, Ledger, NewAttempt
from billing.windows import Window
from gateway.errors import LedgerUnavailable
from gateway.wire.types import Usage

from .conftest import Charged, new_id

MONTH = Window("month")
MICRO = 1_000_000  # pico-USD


def budget(
    charged: Charged, cap: object, metric: str = "usd", *, hard: bool = True, window: Window = MONTH
) -> BudgetFacts:
    facts = BudgetFacts(new_id(), f"b-{new_id()}", charged.tenant_id, "tenant", "", metric, hard, window)
    charged.execute(
        "INSERT INTO billing_budget (id, created_at, updated_at, tenant_id, name, scope, subject, metric, cap, period,"
        " rolling_s, hard, thresholds, enabled, is_quota)"
        " VALUES (%s, now(), now(), %s, %s, 'tenant', '', %s, %s, %s, %s, %s, '{}', true, false)",
        facts.id, charged.tenant_id, facts.name, metric, cap, window.kind, window.rolling_s, hard,
    )  # fmt: skip
    return facts


def asking(
    charged: Charged,
    *budgets: BudgetFacts,
    input_pico: int = 10 * MICRO,
    output_pico: int = MICRO,
    output_tokens: int = 10,
    at: datetime | None = None,
    **changes: object,
) -> NewAttempt:
    """An attempt whose prompt costs at most ``input_pico`` and whose answer ``output_tokens`` * ``output_pico``."""
    at = at or datetime.now(UTC)
    facts = {"input_tokens": 100, "likely_tokens": 100, "likely_pico": input_pico, "choices": 1, "requests": 1}
    reservation = Reservation(
        periods=tuple(period_of(facts_, "", at) for facts_ in budgets),
        input_pico=input_pico,
        output_pico=output_pico,
        output_tokens=output_tokens,
        **{**facts, **changes},
    )
    return charged.attempt(reservation=reservation)


def state(charged: Charged, facts: BudgetFacts) -> tuple[Decimal, Decimal]:
    """(spent, held) over the budget's periods."""
    query = "SELECT coalesce(sum(spent), 0), coalesce(sum(held), 0) FROM billing_budgetperiod WHERE budget_id = %s"
    return charged.rows(query, facts.id)[0]


def usd(micro: int) -> Decimal:
    return Decimal(micro) / MICRO


async def admitted(ledger: Ledger, attempt: NewAttempt) -> NewAttempt:
    assert (await ledger.admit(attempt)).verdict == "admitted"
    return attempt


def ends_at(facts: BudgetFacts) -> datetime:
    _, end = facts.window.period(datetime.now(UTC))
    assert end is not None
    return end


async def settled(ledger: Ledger, charged: Charged, attempt: NewAttempt, cost_pico: int, **changes: object) -> None:
    ledger.settle(charged.settlement(attempt.id, cost_pico=cost_pico, **changes))
    assert await ledger.drain()


@pytest.fixture
async def other_ledger(charged: Charged) -> AsyncIterator[Ledger]:
    other = Ledger(charged.database_url, new_id(), "another process")
    await other.open()
    yield other
    await other.close()


async def test_what_an_attempt_may_cost_is_held_and_what_it_cost_is_spent(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "1.00")
    attempt = asking(charged, limit)
    admission = await ledger.admit(attempt)
    assert (admission.verdict, admission.output_tokens) == ("admitted", 10)
    assert state(charged, limit) == (0, usd(20))
    [row] = charged.rows(
        "SELECT held_usd, held_tokens, held_requests, cardinality(budget_periods) FROM billing_attempt"
    )
    assert row == (usd(20), 110, 1, 1)
    await settled(ledger, charged, attempt, 7 * MICRO)
    assert state(charged, limit) == (usd(7), 0)


async def test_a_settlement_counts_once(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "1.00")
    attempt = asking(charged, limit)
    await ledger.admit(attempt)
    for _ in range(3):
        await settled(ledger, charged, attempt, 7 * MICRO)
    assert state(charged, limit) == (usd(7), 0)


@pytest.mark.parametrize(("metric", "spent"), [("usd", usd(7)), ("tokens", 15), ("requests", 1)])
async def test_each_metric_counts_its_own(ledger: Ledger, charged: Charged, metric: str, spent: object) -> None:
    limit = budget(charged, 1000, metric)
    attempt = asking(charged, limit)
    await ledger.admit(attempt)
    await settled(ledger, charged, attempt, 7 * MICRO, usage=Usage(input=4, cached_input=6, output=3, reasoning=2))
    assert state(charged, limit) == (spent, 0)


async def test_a_later_attempt_of_a_request_is_no_second_request(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, 1, "requests")
    first, retry = asking(charged, limit), asking(charged, limit, requests=0)
    assert (await ledger.admit(first)).verdict == "admitted"
    await settled(ledger, charged, first, 0, outcome="failed")
    assert (await ledger.admit(retry)).verdict == "full"  # nothing is left, even for what counts for nothing
    assert state(charged, limit) == (1, 0)


async def test_a_cap_of_nothing_blocks_everything(ledger: Ledger, charged: Charged) -> None:
    for metric in ("usd", "tokens", "requests"):
        limit = budget(charged, 0, metric)
        admission = await ledger.admit(asking(charged, limit))
        assert (admission.verdict, admission.cap, admission.spent) == ("full", 0, 0)
        assert admission.period is not None
        assert admission.period.budget_id == limit.id
    assert charged.rows("SELECT count(*) FROM billing_attempt") == [(0,)]


async def test_a_soft_budget_counts_and_never_refuses(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, 0, hard=False)
    attempt = asking(charged, limit)
    assert (await ledger.admit(attempt)).verdict == "admitted"
    await settled(ledger, charged, attempt, 7 * MICRO)
    assert state(charged, limit) == (usd(7), 0)


async def test_all_budgets_are_reserved_or_none(ledger: Ledger, charged: Charged) -> None:
    wide, narrow = budget(charged, "1.00"), budget(charged, "0.000005")
    admission = await ledger.admit(asking(charged, wide, narrow))
    assert admission.verdict == "full"
    assert admission.period is not None
    assert admission.period.budget_id == narrow.id
    assert (state(charged, wide), state(charged, narrow)) == ((0, 0), (0, 0))


async def test_the_answer_is_cut_to_what_is_left(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000014")
    admission = await ledger.admit(asking(charged, limit))
    assert (admission.verdict, admission.output_tokens) == ("admitted", 4)
    assert state(charged, limit) == (0, usd(14))


async def test_near_the_cap_the_likely_size_of_a_prompt_decides(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000012")
    admission = await ledger.admit(asking(charged, limit, input_pico=30 * MICRO, likely_pico=4 * MICRO))
    assert (admission.verdict, admission.output_tokens) == ("admitted", 8)


async def test_attempts_of_one_batch_compete_for_the_same_room(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, 10, "requests")
    admissions = await asyncio.gather(*(ledger.admit(asking(charged, limit)) for _ in range(30)))
    assert sorted(found.verdict for found in admissions) == ["admitted"] * 10 + ["waiting"] * 20
    assert state(charged, limit) == (0, 10)


async def test_what_is_held_comes_back_to_those_who_wait(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000030")
    first = asking(charged, limit)
    await ledger.admit(first)
    waiting = asyncio.create_task(ledger.admit(asking(charged, limit), patience_s=10))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await settled(ledger, charged, first, 1 * MICRO)
    admission = await asyncio.wait_for(waiting, 5)
    assert (admission.verdict, admission.output_tokens) == ("admitted", 10)


async def test_another_process_giving_back_is_noticed(ledger: Ledger, other_ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000030")
    first = asking(charged, limit)
    await other_ledger.admit(first)
    waiting = asyncio.create_task(ledger.admit(asking(charged, limit), patience_s=10))
    await asyncio.sleep(0.2)
    await settled(other_ledger, charged, first, 1 * MICRO)
    assert (await asyncio.wait_for(waiting, 5)).verdict == "admitted"


async def test_nobody_waits_for_what_cannot_come_back(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000025")
    spent = asking(charged, limit)
    await ledger.admit(spent)
    await settled(ledger, charged, spent, 20 * MICRO)
    started = time.monotonic()
    admission = await ledger.admit(asking(charged, limit), patience_s=10)
    assert (admission.verdict, admission.cap, admission.spent) == ("full", usd(25), usd(20))
    assert time.monotonic() - started < 5


async def test_patience_ends_with_what_is_left_or_a_refusal(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000035")
    await ledger.admit(asking(charged, limit))
    cut = await ledger.admit(asking(charged, limit), patience_s=0.2)
    assert (cut.verdict, cut.output_tokens) == ("admitted", 5)
    refused = await ledger.admit(asking(charged, limit), patience_s=0.2)
    assert (refused.verdict, refused.held) == ("waiting", usd(35))


async def test_what_was_never_sent_is_given_back(ledger: Ledger, charged: Charged) -> None:
    limit, count = budget(charged, "1.00"), budget(charged, 1, "requests")
    attempt = asking(charged, limit, count)
    await ledger.admit(attempt)
    assert state(charged, limit) == (0, usd(20))
    ledger._withdrawn.append(attempt.id)
    await ledger._withdraw()
    assert (state(charged, limit), state(charged, count)) == ((0, 0), (0, 0))


async def test_a_stale_attempt_holds_nothing(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "1.00")
    attempt = structs.replace(asking(charged, limit), policy_epoch=charged.epoch() + 5)
    assert await ledger.admit(attempt) is STALE
    assert state(charged, limit) == (0, 0)


async def test_a_budget_that_is_gone_refuses_nobody(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "1.00")
    attempt = asking(charged, limit)
    charged.execute("DELETE FROM billing_budget WHERE id = %s", limit.id)
    attempt = structs.replace(attempt, policy_epoch=charged.epoch())
    assert (await ledger.admit(attempt)).verdict == "admitted"
    await settled(ledger, charged, attempt, MICRO)


async def test_a_changed_cap_holds_at_once(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000001")
    assert (await ledger.admit(asking(charged, limit))).verdict == "full"
    charged.execute("UPDATE billing_budget SET cap = 1 WHERE id = %s", limit.id)
    assert (await ledger.admit(asking(charged, limit))).verdict == "admitted"


async def test_a_rolling_window_counts_the_slices_within_it(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, 3, "requests", window=Window("rolling", rolling_s=3600))
    start = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    verdicts = []
    for minute in (0, 20, 40, 59, 61, 62, 81):
        at = start.replace(hour=12 + minute // 60, minute=minute % 60)
        attempt = asking(charged, limit, at=at)
        admission = await ledger.admit(attempt)
        verdicts.append(admission.verdict)
        if admission.verdict == "admitted":
            await settled(ledger, charged, attempt, 0)
    assert verdicts == ["admitted", "admitted", "admitted", "full", "admitted", "full", "admitted"]


async def test_a_refusal_says_what_is_left_and_what_was_needed(ledger: Ledger, charged: Charged) -> None:
    limit = budget(charged, "0.000025")
    await settled(ledger, charged, await admitted(ledger, asking(charged, limit)), 20 * MICRO)
    error = refusal(await ledger.admit(asking(charged, limit, likely_pico=8 * MICRO)), [limit])
    assert (error.status, error.code, error.should_retry) == (402, "budget_exceeded", False)
    assert {name: error.details[name] for name in ("cap", "spent", "left", "needed", "resets_at")} == {
        "cap": "0.000025",
        "spent": "0.00002",
        "left": "0.000005",
        "needed": "0.000009",  # the prompt, and one token of an answer
        "resets_at": ends_at(limit).isoformat(),
    }
    assert "0.00002 spent, 0.000005 USD left of 0.000009 needed." in error.message


async def test_a_refusal_by_the_installations_budget_keeps_its_amounts_to_itself(
    ledger: Ledger, charged: Charged
) -> None:
    limit = budget(charged, "0.000015")
    refused = await ledger.admit(asking(charged, limit, input_pico=20 * MICRO))
    error = refusal(refused, [structs.replace(limit, name="all", scope="installation")])
    assert {name: error.details[name] for name in ("scope", "cap", "spent", "left", "needed")} == {
        "scope": "installation",
        "cap": None,
        "spent": None,
        "left": None,
        "needed": "0.000021",
    }
    assert error.message.startswith(
        "The installation budget 'all' leaves no room for this request: 0.000021 USD needed. It starts over at"
    )


@pytest.mark.parametrize(("metric", "cap", "needed"), [("tokens", 100, "101"), ("requests", 0, "1")])
async def test_what_was_needed_is_in_the_budgets_metric(
    ledger: Ledger, charged: Charged, metric: str, cap: int, needed: str
) -> None:
    limit = budget(charged, cap, metric)
    error = refusal(await ledger.admit(asking(charged, limit)), [limit])
    assert (error.details["left"], error.details["needed"]) == (str(cap), needed)


async def test_a_refusal_by_a_rolling_window_says_when_the_first_of_it_is_free(
    ledger: Ledger, charged: Charged
) -> None:
    limit = budget(charged, 2, "requests", window=Window("rolling", rolling_s=3600))
    start = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
    for minutes in (0, 20):
        at = start + timedelta(minutes=minutes)
        await settled(ledger, charged, await admitted(ledger, asking(charged, limit, at=at)), 0)
    refused = await ledger.admit(asking(charged, limit, at=start + timedelta(minutes=40)))
    error = refusal(refused, [limit])
    assert error.details["resets_at"] == "2026-11-21T13:01:00+00:00"
    assert "within 1 hour the first is free again at 2026-11-21T13:01:00+00:00" in error.message
    at = datetime.fromisoformat(error.details["resets_at"])
    early = asking(charged, limit, at=at - timedelta(seconds=1))
    assert (await ledger.admit(early)).verdict == "full"
    await admitted(ledger, asking(charged, limit, at=at))


@pytest.mark.parametrize(("cap", "resets_at"), [(1, "2026-11-21T14:02:00+00:00"), (0, None)])
async def test_all_of_a_window_may_be_used_now_or_nothing_at_all(
    ledger: Ledger, charged: Charged, cap: int, resets_at: str | None
) -> None:
    limit = budget(charged, cap, "requests", window=Window("rolling", rolling_s=7200))
    at = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    for _ in range(cap):
        await settled(ledger, charged, await admitted(ledger, asking(charged, limit, at=at)), 0)
    error = refusal(await ledger.admit(asking(charged, limit, at=at)), [limit])
    assert error.details["resets_at"] == resets_at


async def test_two_processes_never_pass_a_cap(ledger: Ledger, other_ledger: Ledger, charged: Charged) -> None:
    caps = [budget(charged, 100, "requests"), budget(charged, "0.002"), budget(charged, 11_000, "tokens")]

    async def ask(through: Ledger) -> str:
        attempt = asking(charged, *caps)
        try:
            admission = await through.admit(attempt, patience_s=20)
        except LedgerUnavailable:  # a machine under load; callers are told to come back
            return await ask(through)
        if admission.verdict == "admitted":
            assert admission.output_tokens == 10
            await asyncio.sleep(0.005)
            through.settle(charged.settlement(attempt.id, cost_pico=20 * MICRO, usage=Usage(input=100, output=10)))
        return admission.verdict

    verdicts = await asyncio.gather(*(ask(through) for _ in range(150) for through in (ledger, other_ledger)))
    assert (verdicts.count("admitted"), verdicts.count("full")) == (100, 200)
    assert await ledger.drain()
    assert await other_ledger.drain()
    assert [state(charged, limit) for limit in caps] == [(100, 0), (Decimal("0.002"), 0), (11_000, 0)]
