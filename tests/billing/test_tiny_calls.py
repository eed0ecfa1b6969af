"""Very many very small amounts add up to the last of twelve decimals. ``TINY_CALLS`` makes it more (nightly: 1000000)."""

import json
import os
from decimal import Decimal

import psycopg

from tests.provision import Database

from .conftest import make_charged, new_id
from .test_budget_admission import budget

CALLS = int(os.environ.get("TINY_CALLS", "20000"))
BATCH = 5000


def test_tiny_calls_add_up_exactly(fresh_database: Database) -> None:
    """Call number n costs n mod 7 pico-USD, the smallest amount there is."""
    charged = make_charged(fresh_database.url)
    limit, period = budget(charged, "1000"), new_id()
    with psycopg.connect(charged.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO billing_budgetperiod (id, tenant_id, budget_id, subject, starts_at, spent, held, alerted)"
            " VALUES (%s, %s, %s, '', now(), 0, %s, 0)",
            [period, charged.tenant_id, limit.id, CALLS],
        )
        for first in range(0, CALLS, BATCH):
            numbers = range(first, min(first + BATCH, CALLS))
            rows = connection.execute(
                "INSERT INTO billing_attempt (id, request_id, tenant_id, project_id, end_user, tags, purpose, provider_id,"
                " model_id, vendor_model, process_id, started_at, held_usd, held_tokens, held_requests, budget_periods)"
                " SELECT uuidv7(), uuidv7(), %s, %s, '', '[]', 'serve', %s, %s, 'small', uuidv7(), now(), 1, 0, 1, %s"
                " FROM generate_series(1, %s) RETURNING id::text",
                [charged.tenant_id, charged.project_id, charged.provider_id, charged.model_id, [period], len(numbers)],
            ).fetchall()
            batch = [
                {"attempt_id": row[0], "tenant_id": charged.tenant_id, "outcome": "settled", "cost_pico": number % 7,
                 "saved_pico": 0, "error_code": "", "ended_at": 1_790_000_000,
                 "usage": {"input": 1, "cached_input": 0, "cache_write_5m": 0, "cache_write_1h": 0, "output": 0,
                           "reasoning": 0, "audio_input": 0, "audio_output": 0, "source": "vendor"}}
                for row, number in zip(rows, numbers, strict=True)
            ]  # fmt: skip
            connection.execute("SELECT pointsman_settle(%s)", [json.dumps(batch)])
        due = Decimal(sum(number % 7 for number in range(CALLS))).scaleb(-12)
        [(spent, held)] = connection.execute("SELECT spent, held FROM billing_budgetperiod").fetchall()
        [(summed, lines)] = connection.execute("SELECT sum(cost_usd), count(*) FROM billing_settlement").fetchall()
    assert (spent, held, summed, lines) == (due, 0, due, CALLS)
