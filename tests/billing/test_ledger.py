import asyncio
import time
from collections.abc import Callable
from decimal import Decimal

import psycopg
import pytest

from billing import ledger as ledger_module
from billing.ledger import ADMITTED, STALE, Ledger
from billing.pricing import to_usd
from gateway.errors import LedgerUnavailable
from gateway.wire.types import Usage
from tests.e2e.own_postgres import OwnPostgres

from .conftest import Charged, new_id


def attempts(charged: Charged) -> int:
    return charged.rows("SELECT count(*) FROM billing_attempt WHERE tenant_id = %s", charged.tenant_id)[0][0]


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


# --------------------------------------------------------------------------- admission


async def test_admitted_attempt_is_committed_with_all_its_facts(ledger: Ledger, charged: Charged) -> None:
    started_at = 1_790_000_000.123457
    price_id = new_id()
    charged.execute(
        "INSERT INTO billing_priceversion (id, model_id, tenant_id, provider_kind, vendor_model_pattern,"
        " effective_from, source, input, output, per_request, tiers, created_at)"
        " VALUES (%s, %s, %s, '', '', now(), 'operator', 1, 2, 0, '[]', now())",
        price_id, charged.model_id, charged.tenant_id,
    )  # fmt: skip
    attempt = charged.attempt(
        end_user='Zoë "O\'Neill"\\\0{}, NULL',
        tags=('a,"b', "ü"),
        started_at=started_at,
        price_version_id=price_id,
    )
    assert await ledger.admit(attempt) is ADMITTED
    [row] = charged.rows(
        "SELECT id::text, request_id::text, tenant_id::text, project_id::text, token_id::text, end_user, tags, purpose,"
        " provider_id::text, provider_key_id, model_id::text, vendor_model, price_version_id::text, process_id::text,"
        " held_usd, started_at = timestamptz 'epoch' + interval '1790000000.123457 s' FROM billing_attempt"
    )
    [(process_id,)] = charged.rows("SELECT id::text FROM billing_gatewayprocess")
    assert row == (
        attempt.id, attempt.request_id, charged.tenant_id, charged.project_id, charged.token_id,
        'Zoë "O\'Neill"\\{}, NULL', ['a,"b', "ü"], "serve", charged.provider_id, None, charged.model_id, "small-1",
        price_id, process_id, None, True,
    )  # fmt: skip


async def test_attempts_of_one_tick_share_one_transaction(ledger: Ledger, charged: Charged) -> None:
    epoch = charged.epoch()
    await asyncio.gather(*(ledger.admit(charged.attempt(policy_epoch=epoch)) for _ in range(32)))
    assert charged.rows("SELECT count(*), count(DISTINCT xmin::text) FROM billing_attempt") == [(32, 1)]


async def test_policy_that_was_overtaken_is_stale_and_leaves_no_row(ledger: Ledger, charged: Charged) -> None:
    attempt = charged.attempt()
    charged.execute("UPDATE tenants_apitoken SET revoked_at = now() WHERE id = %s", charged.token_id)
    assert await ledger.admit(attempt) is STALE
    assert attempts(charged) == 0


async def test_disabled_tenant_is_stale_at_any_epoch(ledger: Ledger, charged: Charged) -> None:
    charged.execute("UPDATE tenants_tenant SET enabled = false WHERE id = %s", charged.tenant_id)
    assert await ledger.admit(charged.attempt()) is STALE


async def test_stale_attempt_does_not_hold_back_its_neighbours(ledger: Ledger, charged: Charged) -> None:
    epoch = charged.epoch()
    results = await asyncio.gather(
        ledger.admit(charged.attempt(policy_epoch=epoch + 1)), ledger.admit(charged.attempt(policy_epoch=epoch))
    )
    assert results == [STALE, ADMITTED]


async def test_attempt_of_another_tenants_project_is_refused_alone(ledger: Ledger, charged: Charged) -> None:
    good = [charged.attempt() for _ in range(6)]
    bad = charged.attempt(project_id=new_id())
    results = await asyncio.gather(*(ledger.admit(new) for new in (*good[:3], bad, *good[3:])), return_exceptions=True)
    assert isinstance(results.pop(3), psycopg.IntegrityError)
    assert results == [ADMITTED] * 6
    assert attempts(charged) == 6


async def test_long_end_user_is_cut_rather_than_refused(ledger: Ledger, charged: Charged) -> None:
    assert await ledger.admit(charged.attempt(end_user="é" * 300)) is ADMITTED
    assert charged.rows("SELECT end_user FROM billing_attempt") == [("é" * 200,)]


# --------------------------------------------------------------------------- settlement


async def test_settlement_is_written_with_all_its_facts(ledger: Ledger, charged: Charged) -> None:
    attempt = charged.attempt()
    await ledger.admit(attempt)
    usage = Usage(
        input=1, cached_input=2, cache_write_5m=3, cache_write_1h=4, output=5, reasoning=6, audio_input=7,
        audio_output=8, source="estimated",
    )  # fmt: skip
    ledger.settle(
        charged.settlement(
            attempt.id, outcome="failed", usage=usage, cost_pico=10**18 + 1, status_code=503,
            error_code="provider_status", first_token_at=1_790_000_000.5, ended_at=1_790_000_001.25, saved_pico=3,
        )
    )  # fmt: skip
    assert await ledger.drain()
    assert charged.rows(
        "SELECT outcome, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
        " output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, usage_source, cost_usd,"
        " saved_usd, status_code, error_code, extract(epoch FROM first_token_at)::float,"
        " extract(epoch FROM ended_at)::float"
        " FROM billing_settlement WHERE attempt_id = %s", attempt.id,
    ) == [(
        "failed", 1, 2, 3, 4, 5, 6, 7, 8, "estimated", Decimal("1000000.000000000001"), Decimal("0.000000000003"), 503,
        "provider_status", 1_790_000_000.5, 1_790_000_001.25,
    )]  # fmt: skip


async def test_unknown_price_is_not_zero(ledger: Ledger, charged: Charged) -> None:
    attempt = charged.attempt()
    await ledger.admit(attempt)
    ledger.settle(charged.settlement(attempt.id, cost_pico=None))
    await ledger.drain()
    assert charged.rows("SELECT cost_usd FROM billing_settlement") == [(None,)]


async def test_first_settlement_counts(ledger: Ledger, charged: Charged) -> None:
    attempt = charged.attempt()
    await ledger.admit(attempt)
    ledger.settle(charged.settlement(attempt.id, cost_pico=7))
    ledger.settle(charged.settlement(attempt.id, cost_pico=8))
    await ledger.drain()
    ledger.settle(charged.settlement(attempt.id, cost_pico=9))
    assert await ledger.drain()
    assert charged.rows("SELECT cost_usd FROM billing_settlement") == [(to_usd(7),)]


async def test_settlement_of_no_attempt_is_logged_and_harms_no_other(
    ledger: Ledger, charged: Charged, caplog: pytest.LogCaptureFixture
) -> None:
    attempt, unknown = charged.attempt(), new_id()
    await ledger.admit(attempt)
    ledger.settle(charged.settlement(unknown))
    ledger.settle(charged.settlement(attempt.id))
    assert await ledger.drain()
    assert charged.rows("SELECT attempt_id::text FROM billing_settlement") == [(attempt.id,)]
    assert unknown in caplog.text


# --------------------------------------------------------------------------- many at once


async def test_every_one_of_two_thousand_attempts_is_kept_and_the_sums_are_equal(charged: Charged) -> None:
    ledgers = [Ledger(charged.database_url, new_id(), f"test:{number}") for number in range(2)]
    for opened in ledgers:
        await opened.open()
    epoch, total = charged.epoch(), 0

    async def caller(number: int) -> int:
        spent = 0
        for turn in range(63 if number < 16 else 62):
            used = ledgers[number % 2]
            attempt = charged.attempt(policy_epoch=epoch)
            assert await used.admit(attempt) is ADMITTED
            cost = number * 1_000_003 + turn
            used.settle(charged.settlement(attempt.id, cost_pico=cost, usage=Usage(input=number, output=turn)))
            spent += cost
        return spent

    total = sum(await asyncio.gather(*(caller(number) for number in range(32))))
    for opened in ledgers:
        await opened.close()
    assert charged.rows(
        "SELECT count(*), count(s.attempt_id), sum(s.cost_usd) FROM billing_attempt a"
        " LEFT JOIN billing_settlement s ON s.attempt_id = a.id"
    ) == [(2000, 2000, to_usd(total))]


# --------------------------------------------------------------------------- the process


async def test_process_is_registered_while_it_is_open(charged: Charged) -> None:
    opened = Ledger(charged.database_url, new_id(), "host:42")
    await opened.open()
    assert charged.rows("SELECT label FROM billing_gatewayprocess") == [("host:42",)]
    await opened.close()
    assert charged.rows("SELECT label FROM billing_gatewayprocess") == []


async def test_heart_beats_and_registers_again_what_was_removed(
    charged: Charged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "HEARTBEAT_S", 0.05)
    opened = Ledger(charged.database_url, new_id(), "host:42")
    await opened.open()
    await until(lambda: charged.rows("SELECT heartbeat_at > started_at FROM billing_gatewayprocess") == [(True,)])
    charged.execute("DELETE FROM billing_gatewayprocess")
    await until(lambda: len(charged.rows("SELECT 1 FROM billing_gatewayprocess")) == 1)
    await opened.close()


async def test_close_writes_what_was_just_settled(charged: Charged) -> None:
    opened = Ledger(charged.database_url, new_id(), "host:42")
    await opened.open()
    attempt = charged.attempt()
    await opened.admit(attempt)
    opened.settle(charged.settlement(attempt.id))
    await opened.close()
    assert charged.rows("SELECT outcome FROM billing_settlement") == [("settled",)]


# --------------------------------------------------------------------------- callers who leave


async def test_attempt_committed_after_its_caller_left_is_settled_at_no_cost(ledger: Ledger, charged: Charged) -> None:
    attempt = charged.attempt()
    with psycopg.connect(charged.database_url) as blocker:
        blocker.execute("SELECT FROM tenants_project WHERE id = %s FOR UPDATE", [charged.project_id])
        leaving = asyncio.create_task(ledger.admit(attempt))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await asyncio.sleep(0.05)
    await until(lambda: attempts(charged) == 1)
    await ledger.close()
    assert charged.rows("SELECT outcome, error_code, cost_usd, usage_source FROM billing_settlement") == [
        ("cancelled", "not_sent", 0, "counted")
    ]


async def test_admitted_attempt_is_not_withdrawn(ledger: Ledger, charged: Charged) -> None:
    attempt = charged.attempt()
    await ledger.admit(attempt)
    await ledger.close()
    assert charged.rows("SELECT outcome FROM billing_settlement") == []


# --------------------------------------------------------------------------- outages


async def test_stopped_server_refuses_within_two_seconds_and_recovers(
    own_server: OwnPostgres, breakable: Callable[[], Charged]
) -> None:
    charged = breakable()
    opened = Ledger(charged.database_url, new_id(), "host:42")
    await opened.open()
    before = charged.attempt()
    assert await opened.admit(before) is ADMITTED
    late = charged.attempt()
    own_server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable) as refused:
            await opened.admit(charged.attempt(policy_epoch=late.policy_epoch))
        assert time.monotonic() - began <= 2
        assert refused.value.retry_after_s
        assert not await opened.ready()
        opened.settle(charged.settlement(before.id, cost_pico=5))
        assert not await opened.drain(0.2)
    finally:
        await asyncio.to_thread(own_server.start)
    began = time.monotonic()
    assert await opened.admit(late) is ADMITTED
    assert time.monotonic() - began < 2
    assert await opened.drain()
    assert await opened.ready()
    assert charged.rows("SELECT cost_usd FROM billing_settlement WHERE attempt_id = %s", before.id) == [(to_usd(5),)]
    await opened.close()


async def test_hung_server_refuses_within_two_seconds_and_what_it_still_commits_is_settled(
    own_server: OwnPostgres, breakable: Callable[[], Charged]
) -> None:
    charged = breakable()
    opened = Ledger(charged.database_url, new_id(), "host:42")
    await opened.open()
    before, doubtful, after = (charged.attempt() for _ in range(3))
    assert await opened.admit(before) is ADMITTED
    own_server.hang()
    try:
        opened.settle(charged.settlement(before.id, cost_pico=5))
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await opened.admit(doubtful)
        assert time.monotonic() - began <= 2
    finally:
        own_server.resume()
    assert await opened.admit(after) is ADMITTED
    assert await opened.drain()
    await opened.close()
    # The hung backend had received the statement and ran it once it went on: nobody was told, nothing was sent.
    rows = charged.rows(
        "SELECT a.id::text, s.outcome, s.cost_usd FROM billing_attempt a"
        " LEFT JOIN billing_settlement s ON s.attempt_id = a.id WHERE a.tenant_id = %s AND a.id <> %s ORDER BY a.id",
        charged.tenant_id, after.id,
    )  # fmt: skip
    assert rows[0] == (before.id, "settled", to_usd(5))
    assert rows[1:] in ([], [(doubtful.id, "cancelled", 0)])


async def test_process_that_starts_before_its_database_registers_with_its_first_admission(
    own_server: OwnPostgres, breakable: Callable[[], Charged]
) -> None:
    charged = breakable()
    attempt = charged.attempt()
    own_server.stop()
    process_id = new_id()
    opened = Ledger(charged.database_url, process_id, "host:42")
    try:
        await opened.open()
    finally:
        await asyncio.to_thread(own_server.start)
    assert await opened.admit(attempt) is ADMITTED
    assert charged.rows("SELECT 1 FROM billing_gatewayprocess WHERE id = %s", process_id) == [(1,)]
    await opened.close()
