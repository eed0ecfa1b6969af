"""Transcripts and claims, in one process and through a real Redis in two."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import IdempotencyConflict, InvalidRequest, Overloaded, ProviderError
from gateway.idempotency import MAX_ANSWER_BYTES, AnswerHead, IdempotentCalls, RecentAnswers, Transcript
from tenants.crypto import IDEMPOTENT_ANSWER, Keyring, generate_key

HEAD = AnswerHead(((b"content-type", b"text/event-stream"),), streamed=True)
KEYRING = Keyring.parse(f"1:{generate_key()}", purpose=IDEMPOTENT_ANSWER)
ONE, OTHER = os.urandom(32), os.urandom(32)


async def read(transcript: Transcript) -> bytes:
    await transcript.head()
    return b"".join([block async for block in transcript.blocks()])


@given(
    blocks=st.lists(st.binary(min_size=1, max_size=20), max_size=12),
    joins=st.lists(st.integers(0, 12), min_size=1, max_size=4),
)
def test_every_reader_gets_all_of_it_whenever_it_joins(blocks: list[bytes], joins: list[int]) -> None:
    async def story() -> None:
        transcript = Transcript()
        readers = [asyncio.create_task(read(transcript)) for join in joins if join == 0]
        transcript.start(HEAD)
        for number, block in enumerate(blocks, 1):
            await transcript.write(block)
            readers += [asyncio.create_task(read(transcript)) for join in joins if join == number]
            await asyncio.sleep(0)
        transcript.finish()
        readers += [asyncio.create_task(read(transcript))]
        assert {await reader for reader in readers} == {b"".join(blocks)}

    asyncio.run(story())


async def test_a_failure_before_the_start_is_everybodys() -> None:
    transcript = Transcript()
    readers = [asyncio.create_task(read(transcript)) for _ in range(3)]
    await asyncio.sleep(0)
    transcript.fail(ProviderError("down"))
    for reader in readers:
        with pytest.raises(ProviderError):
            await reader


async def test_too_large_an_answer_waits_for_its_reader_and_keeps_little() -> None:
    transcript = Transcript()
    transcript.start(HEAD)
    block = b"x" * (MAX_ANSWER_BYTES // 4)
    received = 0
    reading = transcript.blocks()
    writing = asyncio.create_task(_write_all(transcript, [block] * 40))
    most = 0
    async for piece in reading:
        received += len(piece)
        most = max(most, transcript.kept_bytes)
    await writing

    assert received == 40 * len(block)
    assert most <= 2 * MAX_ANSWER_BYTES
    assert transcript.record() is None


async def _write_all(transcript: Transcript, blocks: list[bytes]) -> None:
    for block in blocks:
        await transcript.write(block)
    transcript.finish()


@pytest.fixture
async def shared() -> AsyncIterator[redis.asyncio.Redis]:
    connection = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    yield connection
    await connection.aclose()


@pytest.fixture
async def here(shared: redis.asyncio.Redis) -> AsyncIterator[IdempotentCalls]:
    calls = IdempotentCalls(shared, KEYRING, "here")
    yield calls
    await calls.close()


@pytest.fixture
async def there(shared: redis.asyncio.Redis) -> AsyncIterator[IdempotentCalls]:
    calls = IdempotentCalls(shared, KEYRING, "there")
    yield calls
    await calls.close()


async def test_a_second_claim_joins_and_another_body_conflicts(here: IdempotentCalls) -> None:
    key = str(uuid.uuid4())
    first = await here.claim("token", key, ONE)
    second = await here.claim("token", key, ONE)
    assert (first.mine, second.mine) == (True, False)
    assert first.transcript is second.transcript
    with pytest.raises(IdempotencyConflict):
        await here.claim("token", key, OTHER)
    assert (await here.claim("another token", key, OTHER)).mine


async def test_another_process_gets_the_finished_answer(here: IdempotentCalls, there: IdempotentCalls) -> None:
    key = str(uuid.uuid4())
    mine = await here.claim("token", key, ONE)
    joined = await there.claim("token", key, ONE)
    assert (mine.mine, joined.mine) == (True, False)
    mine.transcript.start(HEAD)
    await mine.transcript.write(b"one ")
    await mine.transcript.write(b"two")
    mine.transcript.finish()

    assert await asyncio.wait_for(read(joined.transcript), 3) == b"one two"
    with pytest.raises(IdempotencyConflict):
        await there.claim("token", key, OTHER)


async def test_the_answer_in_redis_is_sealed(here: IdempotentCalls, shared: redis.asyncio.Redis) -> None:
    key = str(uuid.uuid4())
    mine = await here.claim("token", key, ONE)
    mine.transcript.start(HEAD)
    await mine.transcript.write(b"a secret answer")
    mine.transcript.finish()
    await asyncio.sleep(0.4)
    stored = await shared.get(f"pointsman:idempotent:{mine.name}")
    assert stored
    assert b"secret" not in stored
    assert key.encode() not in stored


async def test_a_failed_call_frees_its_key_in_both_processes(here: IdempotentCalls, there: IdempotentCalls) -> None:
    key = str(uuid.uuid4())
    mine = await here.claim("token", key, ONE)
    joined = await there.claim("token", key, ONE)
    here.failed(mine, ProviderError("down"))

    with pytest.raises(Overloaded):  # asked to come again: the call was not its own
        await asyncio.wait_for(joined.transcript.head(), 3)
    assert (await there.claim("token", key, OTHER)).mine


async def test_without_redis_it_holds_within_the_process() -> None:
    away = redis.asyncio.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.05)
    calls = IdempotentCalls(away, KEYRING, "alone")
    first = await calls.claim("token", "key", ONE)
    assert first.mine
    assert not (await calls.claim("token", "key", ONE)).mine
    await calls.close()
    await away.aclose()


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb"])
async def test_a_key_that_is_none_is_refused(here: IdempotentCalls, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await here.claim("token", key, ONE)


async def test_a_try_that_was_given_up_is_not_repeated() -> None:
    recent = RecentAnswers()
    answer = recent.begin(ONE)
    assert recent.find(ONE) is answer
    answer.cancel()
    assert recent.find(ONE) is None
    assert recent.find(OTHER) is None
