"""Answers on their way to the judge: written beside the traffic, and never in its way."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from msgspec import Raw

from gateway.rows import new_id
from routing.judge import samples
from routing.judge.samples import Sample, SampleWriter
from tenants.crypto import DecryptionFailed, Keyring, content_purpose
from tenants.models import Tenant
from tests.provision import Database

SAMPLE = Sample("openai_chat", Raw(b'{"model": "auto", "messages": []}'), "Lima, since 1535 \u2713", "text", "stop")


@pytest.fixture
async def writer(fresh_database: Database) -> AsyncIterator[SampleWriter]:
    opened = SampleWriter(fresh_database.url, settings.MASTER_KEYS)
    yield opened
    await opened.close()


@pytest.fixture
def tenant_id(real_commits: Database) -> str:
    """Of a tenant that samples can belong to."""
    return str(Tenant.objects.create(slug="acme").pk)


def stored(database: Database, columns: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.owner_url) as connection:
        return connection.execute(f"SELECT {columns} FROM routing_judgesample ORDER BY request_id").fetchall()


async def test_a_sample_can_be_read_with_the_tenants_key_and_in_its_place_only(
    writer: SampleWriter, fresh_database: Database, tenant_id: str
) -> None:
    request_id = str(new_id())
    writer.put(tenant_id, request_id, SAMPLE)
    await writer.close()
    ((ciphertext, number, tries),) = stored(fresh_database, "ciphertext, master_key_number, tries")
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
    writer: SampleWriter, fresh_database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MAX_SAMPLE_BYTES", 200)
    for answer in ("x" * 100, "x" * 200):
        writer.put(tenant_id, str(new_id()), Sample("openai_chat", Raw(b"{}"), answer, "text", "stop"))
    await writer.close()
    assert len(stored(fresh_database, "1")) == 1
    assert writer.dropped == 0


async def test_without_room_samples_are_dropped_and_counted(
    fresh_database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CAPACITY", 2)
    writer = SampleWriter(fresh_database.url, settings.MASTER_KEYS)
    for _ in range(3):
        writer.put(tenant_id, str(new_id()), SAMPLE)
    assert writer.dropped == 1
    await writer.close()
    assert len(stored(fresh_database, "1")) == 2


async def test_a_database_that_is_away_is_in_nobodys_way() -> None:
    writer = SampleWriter("postgresql://nobody@127.0.0.1:9/nowhere", settings.MASTER_KEYS)
    writer.put(str(new_id()), str(new_id()), SAMPLE)
    await writer.close(drain_s=0.2)
