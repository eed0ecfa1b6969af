"""Decisions, and answers on their way to the judge: written beside the traffic, and never in its way."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import pytest
import uuid_utils
from django.conf import settings
from msgspec import Raw

from gateway.rows import new_id
from routing import decision_log
from routing.decision_log import DecisionRow, DecisionWriter, Sample, read_vector, stored_vector
from tenants.crypto import DecryptionFailed, Keyring, content_purpose
from tenants.models import Tenant
from tests.provision import Database

VECTOR = np.array([1.0, 0.0, -0.25, 1e-9])
SAMPLE = Sample("openai_chat", Raw(b'{"model": "auto", "messages": []}'), "Lima, since 1535 \u2713", "text", "stop")


def row(**changes: Any) -> DecisionRow:
    facts: dict[str, Any] = {
        **{name: str(uuid_utils.uuid7()) for name in ("request_id", "tenant_id", "project_id", "token_id")},
        "end_user": "ann",
        "strategy": "balanced",
        "engine": "experiment",
        "state_version": 7,
        "task": "coding",
        "complexity": "simple",
        "confidence": 0.9,
        "vector": stored_vector(VECTOR),
        "input_tokens": 12,
        "chosen": "small",
        "propensity": 0.25,
        "explored": True,
        "candidates": {"model": ["small", "large"], "mean": [0.7, 0.8]},
        "removed": {"tiny": ["capability", "it takes no images"]},
        "reason": "its share of the experiment",
        "experiment_id": str(uuid_utils.uuid7()),
        "arm": "small",
        "unit": "ab" * 16,
        "judged": True,
        "judge_probability": 0.5,
        "challenger": "large",
        "challenger_propensity": 0.125,
        "model_name": "small",
        "status": 200,
        "finish_reason": "stop",
        "output_tokens": 8,
        "cost_pico": 1_500_000,
        "latency_ms": 12.5,
        "first_token_ms": None,
    }
    return DecisionRow(**(facts | changes))


def put(writer: DecisionWriter, made: DecisionRow) -> None:
    writer.put(lambda: made)


@pytest.fixture
async def writer(fresh_database: Database) -> AsyncIterator[DecisionWriter]:
    opened = DecisionWriter(fresh_database.url, settings.MASTER_KEYS)
    yield opened
    await opened.close()


def stored(database: Database, columns: str, table: str = "routing_decision") -> list[tuple[Any, ...]]:
    with psycopg.connect(database.owner_url) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY request_id").fetchall()


@pytest.fixture
def tenant_id(real_commits: Database) -> str:
    """Of a tenant that samples can belong to."""
    return str(Tenant.objects.create(slug="acme").pk)


async def test_a_decision_is_written_with_all_its_facts(writer: DecisionWriter, fresh_database: Database) -> None:
    given = row()
    put(writer, given)
    await writer.close()
    columns = (
        "chosen, propensity, explored, candidates, removed, experiment_id::text, arm, unit, cost_usd::text, vector"
    )
    ((*told, vector),) = stored(fresh_database, columns)
    assert told == [
        given.chosen, 0.25, True, given.candidates, given.removed, given.experiment_id, "small", given.unit,
        "0.000001500000",
    ]  # fmt: skip
    assert read_vector(vector).tolist() == VECTOR.tolist()


async def test_what_is_not_known_stays_empty(writer: DecisionWriter, fresh_database: Database) -> None:
    nothing = {"experiment_id": None, "arm": None, "unit": None, "challenger": None, "cost_pico": None}
    put(writer, row(**nothing))
    await writer.close()
    assert stored(fresh_database, "experiment_id, arm, unit, challenger, cost_usd") == [(None, "", "", "", None)]


async def test_the_same_request_is_written_once(writer: DecisionWriter, fresh_database: Database) -> None:
    first = row()
    for again in (first, row(request_id=first.request_id, chosen="large")):
        put(writer, again)
    await writer.close()
    assert stored(fresh_database, "chosen") == [("small",)]


async def test_a_row_that_is_refused_takes_no_other_with_it(
    writer: DecisionWriter, fresh_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    put(writer, row())
    put(writer, row(strategy="much longer than a strategy may be"))
    put(writer, row(end_user="u\x00" * 300, reason="r" * 900, finish_reason="f" * 90))
    await writer.close()
    lengths = stored(fresh_database, "length(end_user), length(reason), length(finish_reason)")
    assert lengths == [(3, 27, 4), (200, 500, 24)]
    assert "refuses the decision" in caplog.text


async def test_without_room_decisions_are_dropped_and_counted(
    fresh_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "CAPACITY", 3)
    writer = DecisionWriter(fresh_database.url, settings.MASTER_KEYS)
    for _ in range(5):
        put(writer, row())
    assert writer.dropped == 2
    await writer.close()
    assert len(stored(fresh_database, "1")) == 3


async def test_a_sample_can_be_read_with_the_tenants_key_and_in_its_place_only(
    writer: DecisionWriter, fresh_database: Database, tenant_id: str
) -> None:
    request_id = str(new_id())
    writer.put_sample(tenant_id, request_id, SAMPLE)
    await writer.close()
    ((ciphertext, number, tries),) = stored(
        fresh_database, "ciphertext, master_key_number, tries", "routing_judgesample"
    )
    assert (number, tries) == (1, 0)
    assert b"Lima" not in ciphertext
    keyring = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(tenant_id))
    assert Sample.unseal(keyring, tenant_id, request_id, ciphertext) == SAMPLE
    with pytest.raises(DecryptionFailed):
        Sample.unseal(keyring, tenant_id, str(new_id()), ciphertext)
    others = Keyring.parse(settings.MASTER_KEYS, purpose=content_purpose(str(new_id())))
    with pytest.raises(DecryptionFailed):
        Sample.unseal(others, tenant_id, request_id, ciphertext)


async def test_an_answer_that_is_too_long_is_not_handed_over(
    writer: DecisionWriter, fresh_database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_log, "MAX_SAMPLE_BYTES", 200)
    for answer in ("x" * 100, "x" * 200):
        writer.put_sample(tenant_id, str(new_id()), Sample("openai_chat", Raw(b"{}"), answer, "text", "stop"))
    await writer.close()
    assert len(stored(fresh_database, "1", "routing_judgesample")) == 1
    assert writer.dropped == 0


async def test_a_database_that_is_away_is_in_nobodys_way() -> None:
    writer = DecisionWriter("postgresql://nobody@127.0.0.1:9/nowhere", settings.MASTER_KEYS)
    put(writer, row())
    writer.put_sample(str(new_id()), str(new_id()), SAMPLE)
    await writer.close(drain_s=0.2)
