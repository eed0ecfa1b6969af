import asyncio
import time

import msgspec
import psycopg
import pytest

from billing.groupcommit import GroupCommit, PostgresWriter, Unreachable, WriteBehind, json_rows
from gateway.errors import LedgerUnavailable
from tests.e2e.own_postgres import OwnPostgres
from tests.provision import Database


class Writes:
    """Stands where the SQL would: remembers batches, doubles numbers, fails when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: psycopg.Error | None = None

    async def __call__(self, batch: list[int]) -> list[int]:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if any(number < 0 for number in batch):
            raise psycopg.DataError("negative")
        self.batches.append(batch)
        return [number * 2 for number in batch]


@pytest.fixture
async def writes() -> Writes:
    return Writes()


@pytest.fixture
async def unclaimed() -> list[int]:
    return []


@pytest.fixture
async def commits(writes: Writes, unclaimed: list[int]) -> GroupCommit[int, int]:
    return GroupCommit(writes, unclaimed.append, max_batch=5, deadline_s=0.3)


# --------------------------------------------------------------------------- GroupCommit


async def test_all_of_one_tick_share_one_write(commits: GroupCommit[int, int], writes: Writes) -> None:
    assert await asyncio.gather(*(commits.submit(number) for number in range(4))) == [0, 2, 4, 6]
    assert writes.batches == [[0, 1, 2, 3]]


async def test_what_piles_up_during_a_write_goes_with_the_next_in_bounded_batches(
    commits: GroupCommit[int, int], writes: Writes
) -> None:
    writes.gate.clear()
    first = asyncio.create_task(commits.submit(0))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(commits.submit(number)) for number in range(1, 9)]
    await asyncio.sleep(0.01)
    writes.gate.set()
    await asyncio.gather(first, *others)
    assert writes.batches == [[0], [1, 2, 3, 4, 5], [6, 7, 8]]


async def test_one_bad_item_harms_no_other(commits: GroupCommit[int, int], unclaimed: list[int]) -> None:
    results = await asyncio.gather(*(commits.submit(n) for n in (1, -2, 3, 4, 5)), return_exceptions=True)
    assert isinstance(results.pop(1), psycopg.DataError)
    assert results == [2, 6, 8, 10]
    assert unclaimed == []


async def test_failing_database_refuses_all_and_the_next_write_starts_anew(
    commits: GroupCommit[int, int], writes: Writes, unclaimed: list[int]
) -> None:
    writes.error = psycopg.OperationalError("gone")
    results = await asyncio.gather(commits.submit(1), commits.submit(2), return_exceptions=True)
    assert [type(result) for result in results] == [LedgerUnavailable] * 2
    assert unclaimed == [1, 2]
    writes.error = None
    assert await commits.submit(3) == 6


async def test_nothing_is_unclaimed_that_was_never_sent(
    commits: GroupCommit[int, int], writes: Writes, unclaimed: list[int]
) -> None:
    writes.error = Unreachable("no connection")
    with pytest.raises(LedgerUnavailable):
        await commits.submit(1)
    assert unclaimed == []


async def test_deadline_covers_the_write_and_the_wait_for_it(
    commits: GroupCommit[int, int], writes: Writes, unclaimed: list[int]
) -> None:
    writes.gate.clear()
    began = time.monotonic()
    writing = asyncio.create_task(commits.submit(1))
    await asyncio.sleep(0.01)
    results = await asyncio.gather(writing, commits.submit(2), return_exceptions=True)
    assert [type(result) for result in results] == [LedgerUnavailable] * 2
    assert 0.25 < time.monotonic() - began < 0.5
    writes.gate.set()
    await commits.close()
    assert writes.batches == [[1]], "an item whose waiter has gone is not written any more"
    assert unclaimed == [1]


async def test_cancelling_one_waiter_does_not_cancel_the_write(
    commits: GroupCommit[int, int], writes: Writes, unclaimed: list[int]
) -> None:
    writes.gate.clear()
    leaving, staying = (asyncio.create_task(commits.submit(number)) for number in (1, 2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.sleep(0.01)
    writes.gate.set()
    assert await staying == 4
    assert leaving.cancelled()
    assert unclaimed == [1]


async def test_waiter_cancelled_just_as_its_result_arrives_leaves_it_unclaimed(
    commits: GroupCommit[int, int], unclaimed: list[int]
) -> None:
    waiting = asyncio.create_task(commits.submit(1))
    await asyncio.sleep(0)  # submitted
    await asyncio.sleep(0)  # written: its result is set, the waiter has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert unclaimed == [1]


async def test_close_waits_for_what_was_submitted(commits: GroupCommit[int, int], writes: Writes) -> None:
    waiting = [asyncio.create_task(commits.submit(number)) for number in range(12)]
    await asyncio.sleep(0)
    await commits.close()
    assert [task.result() for task in waiting] == [number * 2 for number in range(12)]


# --------------------------------------------------------------------------- WriteBehind


async def test_rows_are_written_together_after_the_linger(writes: Writes) -> None:
    rows: WriteBehind[int] = WriteBehind(writes, lambda *_: None, name="rows", linger_s=0.05)
    rows.put(1)
    await asyncio.sleep(0.02)
    rows.put(2)
    assert writes.batches == []
    await asyncio.sleep(0.06)
    assert writes.batches == [[1, 2]]
    assert len(rows) == 0


async def test_full_batch_does_not_linger(writes: Writes) -> None:
    rows: WriteBehind[int] = WriteBehind(writes, lambda *_: None, name="rows", linger_s=60, max_batch=3)
    for number in range(7):
        rows.put(number)
    await asyncio.sleep(0.01)
    assert writes.batches == [[0, 1, 2], [3, 4, 5]]
    assert await rows.drain(1) == []
    assert writes.batches[2:] == [[6]]


async def test_refused_row_is_reported_alone(writes: Writes) -> None:
    refused: list[int] = []
    rows: WriteBehind[int] = WriteBehind(writes, lambda row, _: refused.append(row), name="rows", linger_s=0)
    for number in (1, 2, -3, 4):
        rows.put(number)
    assert await rows.drain(1) == []
    assert refused == [-3]
    assert sorted(row for batch in writes.batches for row in batch) == [1, 2, 4]


async def test_without_room_rows_are_dropped_and_counted(writes: Writes) -> None:
    rows: WriteBehind[int] = WriteBehind(writes, lambda *_: None, name="rows", linger_s=60, capacity=2)
    for number in range(5):
        rows.put(number)
    assert (len(rows), rows.dropped) == (2, 3)
    await rows.close(1)
    assert writes.batches == [[0, 1]]


async def test_outage_is_logged_once_and_rows_are_kept_for_later(
    writes: Writes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("billing.groupcommit.RETRY_S", 0.01)
    writes.error = psycopg.OperationalError("gone")
    rows: WriteBehind[int] = WriteBehind(writes, lambda *_: None, name="rows", linger_s=0.01)
    rows.put(1)
    await asyncio.sleep(0.1)
    rows.put(2)
    assert [record.message for record in caplog.records] == ["rows cannot be written, 1 are waiting: gone"]
    writes.error = None
    await asyncio.sleep(0.1)
    assert writes.batches == [[1, 2]]
    assert caplog.records[-1].message == "rows are written again"


async def test_close_hands_back_what_could_not_be_written(writes: Writes) -> None:
    writes.error = psycopg.OperationalError("gone")
    rows: WriteBehind[int] = WriteBehind(writes, lambda *_: None, name="rows", linger_s=0)
    rows.put(1)
    assert await rows.close(0.05) == [1]


# --------------------------------------------------------------------------- PostgresWriter


async def test_returns_the_first_column_and_raises_what_the_server_says(fresh_database: Database) -> None:
    writer = PostgresWriter(fresh_database.url, "test")
    assert await writer.run("SELECT $1::int + n, n FROM generate_series(1, 3) n", b"10") == ["11", "12", "13"]
    with pytest.raises(psycopg.errors.DivisionByZero):
        await writer.run("SELECT 1 / $1::int", b"0")
    assert await writer.run("SHOW synchronous_commit") == ["on"]
    await writer.close()


async def test_document_larger_than_the_socket_holds_goes_through(fresh_database: Database) -> None:
    writer = PostgresWriter(fresh_database.url, "test")
    assert await writer.run("SELECT length($1)", b"x" * 8_000_000) == ["8000000"]
    await writer.close()


async def test_connection_ended_by_the_server_while_idle_costs_nobody_an_error(fresh_database: Database) -> None:
    writer = PostgresWriter(fresh_database.url, "ended-while-idle")
    await writer.run("SELECT 1")
    with psycopg.connect(fresh_database.url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name = %s",
            ["ended-while-idle"],
        )
    await asyncio.sleep(0.05)
    assert await writer.run("SELECT 2") == ["2"]
    await writer.close()


async def test_connection_ended_under_a_statement_is_an_operational_error(fresh_database: Database) -> None:
    writer = PostgresWriter(fresh_database.url, "test")
    with pytest.raises(psycopg.OperationalError):
        await writer.run("SELECT pg_terminate_backend(pg_backend_pid())")
    assert await writer.run("SELECT 2") == ["2"]
    await writer.close()


async def test_cancelled_statement_does_not_answer_the_next_one(fresh_database: Database) -> None:
    writer = PostgresWriter(fresh_database.url, "test")
    await writer.run("SELECT 0")
    running = asyncio.create_task(writer.run("SELECT 1 FROM pg_sleep(0.2)"))
    await asyncio.sleep(0.05)
    running.cancel()
    assert await writer.run("SELECT 2") == ["2"]
    await writer.close()
    await asyncio.sleep(0.2)  # the server finishes the statement all the same


async def test_statement_that_takes_too_long_is_given_up(fresh_database: Database) -> None:
    writer = PostgresWriter(fresh_database.url, "test", timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        await writer.run("SELECT pg_sleep(5)")
    assert time.monotonic() - began < 0.6
    await asyncio.sleep(0.1)  # until the server has given up too


async def test_missing_server_is_unreachable_within_the_time_given() -> None:
    writer = PostgresWriter("postgresql://nobody@/nothing?host=/nonexistent", "test", timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        await writer.run("SELECT 1")
    assert time.monotonic() - began < 0.6


async def test_restarting_server_costs_a_pause_only(own_server: OwnPostgres) -> None:
    writer = PostgresWriter(
        own_server.database.url, "test", timeout_s=20
    )  # recovery takes seconds where the disk is busy
    await writer.run("SELECT 1")
    await asyncio.to_thread(own_server.stop)
    waiting = asyncio.create_task(writer.run("SELECT 2"))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(own_server.start)
    assert await waiting == ["2"]
    await writer.close()


class Named(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("name", "kept"), [("a\0b", "ab"), ("\0\0", ""), (r"a\u0000b", r"a\u0000b"), ("\\\0", "\\"), ("é", "é")]
)
def test_only_nul_characters_are_left_out_of_a_document(name: str, kept: str) -> None:
    assert msgspec.json.decode(json_rows([Named(name)])) == [{"name": kept}]
