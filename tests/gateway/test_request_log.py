import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import uuid_utils

from gateway.request_log import RequestLogRow, RequestLogWriter
from tests.provision import Database


def row(**changes: Any) -> RequestLogRow:
    facts = {
        "id": str(uuid_utils.uuid7()),
        "tenant_id": str(uuid_utils.uuid7()),
        "project_id": str(uuid_utils.uuid7()),
        "token_id": str(uuid_utils.uuid7()),
        "started_at": 1_790_000_000.123457,
        "dialect": "openai_chat",
        "streamed": True,
        "requested_model": "small",
        "model_name": "small",
        "provider_name": "lab",
        "status": 200,
        "error_code": "",
        "finish_reason": "stop",
        "fallback_used": False,
        "attempts": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_pico": 1_500_000,
        "latency_ms": 12.5,
        "first_token_ms": 3.25,
        "overhead_ms": 0.5,
        "end_user": "alice",
        "tags": ("night", 'a,"b'),
        "client_ip": "192.0.2.7",
    }
    return RequestLogRow(**{**facts, **changes})


@pytest.fixture
async def writer(fresh_database: Database) -> AsyncIterator[RequestLogWriter]:
    opened = RequestLogWriter(fresh_database.url)
    await opened.open()
    yield opened
    await opened.close()


def stored(database: Database, columns: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.url) as connection:
        return connection.execute(f"SELECT {columns} FROM gateway_requestlog ORDER BY id").fetchall()


async def test_row_is_written_with_all_its_facts(writer: RequestLogWriter, fresh_database: Database) -> None:
    given = row()
    writer.put(given)
    await writer.close()
    assert stored(
        fresh_database,
        "id::text, tenant_id::text, project_id::text, token_id::text, extract(epoch FROM started_at), dialect,"
        " streamed, requested_model, model_name, provider_name, status, error_code, finish_reason, fallback_used,"
        " attempts, input_tokens, output_tokens, cost_usd, latency_ms, first_token_ms, overhead_ms, end_user, tags,"
        " host(client_ip)",
    ) == [(
        given.id, given.tenant_id, given.project_id, given.token_id, Decimal("1790000000.123457"), "openai_chat", True,
        "small", "small", "lab", 200, "", "stop", False, 1, 10, 5, Decimal("0.0000015"), 12.5, 3.25, 0.5, "alice",
        ["night", 'a,"b'], "192.0.2.7",
    )]  # fmt: skip


async def test_rows_appear_without_anyone_waiting(writer: RequestLogWriter, fresh_database: Database) -> None:
    writer.put(row())
    assert stored(fresh_database, "id") == []
    await asyncio.sleep(0.5)
    assert len(stored(fresh_database, "id")) == 1


async def test_what_is_unknown_stays_empty_and_what_is_too_long_is_cut(
    writer: RequestLogWriter, fresh_database: Database
) -> None:
    writer.put(
        row(
            cost_pico=None, first_token_ms=None, client_ip="", end_user="u\0" * 300, tags=("t" * 90,),
            requested_model="m" * 300,
        )
    )  # fmt: skip
    await writer.close()
    assert stored(fresh_database, "cost_usd, first_token_ms, client_ip, end_user, tags, requested_model") == [
        (None, None, None, "u" * 200, ["t" * 64], "m" * 200)
    ]
    assert writer.dropped == 0


async def test_bad_row_is_counted_and_harms_no_other(writer: RequestLogWriter, fresh_database: Database) -> None:
    good = [row(), row()]
    for given in (good[0], row(client_ip="not an address"), good[1]):
        writer.put(given)
    await writer.close()
    assert stored(fresh_database, "id::text") == [(good[0].id,), (good[1].id,)]
    assert writer.dropped == 1


async def test_without_a_database_rows_are_kept_while_there_is_room() -> None:
    writer = RequestLogWriter("postgresql://nobody@/nothing?host=/nonexistent", capacity=3)
    for _ in range(5):
        writer.put(row())
    assert writer.dropped == 2
    await writer.close(drain_s=0.1)
