"""Decisions are written with the rows of their requests, in the same statement."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import pytest
import uuid_utils
from msgspec.structs import replace

from gateway.request_log import RequestLogRow, RequestLogWriter
from routing.candidate_table import CandidateTable, packed
from routing.decision_log import DecisionRow, read_vector, stored_vector
from tests.provision import Database

VECTOR = np.array([1.0, 0.0, -0.25, 1e-9])
WEIGHED = ([0.7, 0.8], [0.1, 0.1], [1.0, 9.0], [0.5, 2.0], [0.0, 0.125], [0.0, 0.0])
TABLE = CandidateTable.of(["small", "large"], *map(packed, WEIGHED), odds=[0.25, 0.75])


def request(**changes: Any) -> RequestLogRow:
    facts: dict[str, Any] = {
        **{name: str(uuid_utils.uuid7()) for name in ("id", "tenant_id", "project_id", "token_id")},
        **dict.fromkeys(("dialect", "requested_model", "provider_name", "error_code"), "x"),
        **dict.fromkeys(("streamed", "fallback_used"), False),
        **dict.fromkeys(("started_at", "overhead_ms"), 0.5),
        **dict.fromkeys(("attempts", "input_tokens"), 1),
        "model_name": "small", "status": 200, "finish_reason": "stop", "output_tokens": 8, "cost_pico": 1_500_000,
        "latency_ms": 12.5, "first_token_ms": None, "end_user": "ann", "tags": (), "client_ip": None,
    }  # fmt: skip
    return RequestLogRow(**(facts | changes))


def decision(of: RequestLogRow, **changes: Any) -> DecisionRow:
    facts: dict[str, Any] = {
        "request_id": of.id, "strategy": "balanced", "engine": "experiment", "state_version": 7, "task": "coding",
        "complexity": "simple", "confidence": 0.9, "vector": stored_vector(VECTOR), "input_tokens": 12,
        "chosen": "small", "propensity": 0.25, "explored": True, "qualified": TABLE.models, "weighed": TABLE.numbers,
        "removed": {"tiny": ["capability", "it takes no images"]}, "reason": "its share of the experiment",
        "experiment_id": str(uuid_utils.uuid7()), "arm": "small", "unit": "ab" * 16, "judged": True,
        "judge_probability": 0.5, "challenger": "large", "challenger_propensity": 0.125,
    }  # fmt: skip
    return DecisionRow(**(facts | changes))


def put(writer: RequestLogWriter, of: RequestLogRow, made: DecisionRow) -> None:
    writer.put(of, lambda: made)


@pytest.fixture
async def writer(fresh_database: Database) -> AsyncIterator[RequestLogWriter]:
    opened = RequestLogWriter(fresh_database.url)
    yield opened
    await opened.close()


def stored(database: Database, columns: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.owner_url) as connection:
        return connection.execute(f"SELECT {columns} FROM routing_decision ORDER BY request_id").fetchall()


def logged(database: Database) -> list[str]:
    with psycopg.connect(database.owner_url) as connection:
        return [str(key) for (key,) in connection.execute("SELECT id FROM gateway_requestlog ORDER BY id")]


async def test_a_decision_is_written_with_all_its_facts(writer: RequestLogWriter, fresh_database: Database) -> None:
    asked = request()
    given = decision(asked)
    put(writer, asked, given)
    await writer.close()
    columns = (
        "chosen, propensity, explored, removed, experiment_id::text, arm, unit, challenger_propensity, "
        "qualified, weighed, vector"
    )
    ((*told, qualified, weighed, vector),) = stored(fresh_database, columns)
    assert told == ["small", 0.25, True, given.removed, given.experiment_id, "small", given.unit, 0.125]
    assert CandidateTable(qualified, weighed) == TABLE
    assert read_vector(vector).tolist() == VECTOR.tolist()


async def test_it_repeats_what_the_request_log_says(writer: RequestLogWriter, fresh_database: Database) -> None:
    asked = request()
    put(writer, asked, decision(asked))
    await writer.close()
    columns = (
        "request_id::text, tenant_id::text, project_id::text, token_id::text, end_user, model_name, status, "
        "finish_reason, output_tokens, cost_usd::text, latency_ms, first_token_ms"
    )
    assert stored(fresh_database, columns) == [(
        asked.id, asked.tenant_id, asked.project_id, asked.token_id, "ann", "small", 200, "stop", 8, "0.000001500000",
        12.5, None,
    )]  # fmt: skip


async def test_what_is_not_known_stays_empty(writer: RequestLogWriter, fresh_database: Database) -> None:
    asked = request(cost_pico=None)
    nothing = dict.fromkeys(("experiment_id", "arm", "unit", "challenger"))
    put(writer, asked, decision(asked, qualified=[], weighed=b"", **nothing))
    await writer.close()
    columns = "experiment_id, arm, unit, challenger, cost_usd, qualified, weighed"
    assert stored(fresh_database, columns) == [(None, "", "", "", None, [], b"")]


async def test_requests_that_were_not_routed_have_none(writer: RequestLogWriter, fresh_database: Database) -> None:
    named, routed = request(), request()
    writer.put(named)
    put(writer, routed, decision(routed))
    await writer.close()
    assert logged(fresh_database) == sorted([named.id, routed.id])
    assert stored(fresh_database, "request_id::text") == [(routed.id,)]


async def test_the_same_request_is_written_once(writer: RequestLogWriter, fresh_database: Database) -> None:
    asked = request()
    for chosen in ("small", "large"):
        put(writer, asked, decision(asked, chosen=chosen))
    await writer.close()
    assert stored(fresh_database, "chosen") in ([("small",)], [("large",)])
    assert logged(fresh_database) == [asked.id]


async def test_a_decision_that_is_refused_takes_neither_its_request_nor_another_with_it(
    writer: RequestLogWriter, fresh_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    first, bad, cut = asked = [request(), request(), request(end_user="u\x00" * 300, finish_reason="f" * 90)]
    put(writer, first, decision(first))
    put(writer, bad, decision(bad, strategy="much longer than a strategy may be"))
    put(writer, cut, replace(decision(cut), reason="r" * 900))
    await writer.close()
    lengths = stored(fresh_database, "length(end_user), length(reason), length(finish_reason)")
    assert lengths == [(3, 27, 4), (200, 500, 24)]
    assert logged(fresh_database) == sorted(one.id for one in asked)
    assert (writer.dropped, f"{bad.id} or its decision" in caplog.text) == (0, True)
