"""Many small writes in few commits.

A flushed commit costs the same for one row as for five hundred. :class:`GroupCommit` is for callers who wait for
their row, :class:`WriteBehind` for those who do not; both hand batches to one :class:`PostgresWriter`.

The writer talks to libpq through psycopg's own binding: a batch travels as one JSON document to a prepared
statement that reads it with ``json_to_recordset``. Of the ways that were measured (arrays or JSON, through
cursors or directly) it takes the least processor time on both sides, at every batch size.
"""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, islice, repeat
from typing import Generic, TypeVar

import msgspec
import psycopg
from psycopg import AsyncConnection, pq
from psycopg.pq.abc import PGconn, PGresult

from gateway.errors import LedgerUnavailable

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH = 500
DEADLINE_S = 2.0
RECONNECT_PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # then again and again the last
RETRY_S = 0.5

# What is wrong with a row rather than with the database: others of its batch are not to suffer for it.
REFUSED = (psycopg.DataError, psycopg.IntegrityError)


_encode = msgspec.json.Encoder().encode
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")  # an escape that is not itself escaped


def json_rows(rows: Sequence[object]) -> bytes:
    """Rows as the JSON document a statement reads, without NUL characters, which PostgreSQL's text cannot hold."""
    document = _encode(rows)
    return _NUL.sub(rb"\1", document) if b"\\u0000" in document else document


class Unreachable(psycopg.OperationalError):
    """There is no connection: nothing was sent, so nothing was written."""


class PostgresWriter:
    """One connection for prepared statements, made anew whenever it is lost. ``name`` is how the server lists it.

    Every statement commits by itself, flushed to disk. Nothing waits longer than ``timeout_s``, whether for the
    connection, for a statement before it, or for a server that hangs.
    """

    def __init__(self, database_url: str, name: str, timeout_s: float = DEADLINE_S) -> None:
        self._database_url, self.name, self._timeout_s = database_url, name, timeout_s
        self._link: _Link | None = None
        self._lock = asyncio.Lock()

    async def run(self, statement: str, *parameters: bytes) -> list[str]:
        """Run a statement with text parameters; returns the first column of its rows (NULL as "").

        Raises psycopg.DataError or IntegrityError when the data is at fault, Unreachable when nothing was sent, and
        another psycopg.Error when the server failed: then the connection is given up, and unless Unreachable it is
        not known whether the statement takes effect.
        """
        sent = False
        try:
            async with asyncio.timeout(self._timeout_s), self._lock:
                if self._link is None or self._link.lost:
                    self._give_up()
                    self._link = await self._connect()
                sent = True
                try:
                    return await self._link.run(statement, parameters)
                except REFUSED:
                    raise
                except BaseException:  # also a cancelled one: its answer must not be taken for the next one's
                    self._give_up()
                    raise
        except TimeoutError:
            if sent:
                raise psycopg.OperationalError("the database does not answer") from None
            raise Unreachable("the database cannot be reached") from None

    async def close(self) -> None:
        async with self._lock:
            self._give_up()

    async def _connect(self) -> "_Link":
        """Tries until the caller's time is over: a restarting server costs a pause, not an error."""
        pauses_s = chain(RECONNECT_PAUSES_S, repeat(RECONNECT_PAUSES_S[-1]))
        while True:
            try:
                connection = await AsyncConnection.connect(
                    self._database_url,
                    autocommit=True,
                    application_name=self.name,
                    connect_timeout=max(2, int(self._timeout_s)),  # seconds; libpq knows no fewer than 2
                    tcp_user_timeout=int(self._timeout_s * 1000),
                )
                try:
                    await connection.execute("SET synchronous_commit = on")
                    await connection.execute(f"SET statement_timeout = {int(self._timeout_s * 1000)}")
                except BaseException:
                    await connection.close()
                    raise
            except psycopg.OperationalError as exc:
                logger.debug("%s: %s", self.name, exc)
                await asyncio.sleep(next(pauses_s))
            else:
                return _Link(connection)

    def _give_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


class _Link:
    """A live connection: one statement at a time, its reply awaited through the event loop."""

    def __init__(self, connection: AsyncConnection[tuple[object, ...]]) -> None:
        self._connection = connection  # owns the socket
        self._pg: PGconn = connection.pgconn
        self._pg.nonblocking = 1
        self._loop = asyncio.get_running_loop()
        self._socket = self._pg.socket
        self._prepared: dict[str, bytes] = {}
        self._reply: asyncio.Future[PGresult] | None = None
        self.lost = False
        self._loop.add_reader(self._socket, self._on_readable)

    async def run(self, statement: str, parameters: Sequence[bytes]) -> list[str]:
        name = self._prepared.get(statement)
        if name is None:
            name = b"s%d" % len(self._prepared)
            self._pg.send_prepare(name, statement.encode())
            _check(await self._replied())
            self._prepared[statement] = name
        self._pg.send_query_prepared(name, parameters)
        result = await self._replied()
        _check(result)
        return [(result.get_value(row, 0) or b"").decode() for row in range(result.ntuples)]

    def close(self) -> None:
        if (
            not self.lost
        ):  # of a lost one libpq has closed the socket, and its number may be another connection's by now
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self.lost = True
        if self._reply is not None and not self._reply.done():
            self._reply.cancel()
        self._pg.finish()

    def _replied(self) -> "asyncio.Future[PGresult]":
        self._reply = self._loop.create_future()
        if self._pg.flush():  # the socket has no room for all of it
            self._loop.add_writer(self._socket, self._on_writable)
        return self._reply

    def _on_writable(self) -> None:
        try:
            if not self._pg.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.Error as exc:
            self._fail(exc)

    def _on_readable(self) -> None:
        try:
            self._pg.consume_input()
            if self._pg.is_busy():
                return
            last = None
            while (result := self._pg.get_result()) is not None:
                last = result
        except psycopg.Error as exc:
            self._fail(exc)
            return
        if last is not None and self._reply is not None and not self._reply.done():
            self._reply.set_result(last)

    def _fail(self, exc: psycopg.Error) -> None:
        """The connection is gone, under a statement or while idle; the next statement makes a new one."""
        self.lost = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(psycopg.OperationalError(str(exc)))


def _check(result: PGresult) -> None:
    """Raises the psycopg error of the result's SQLSTATE. Its text is the primary message: details quote values."""
    if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        return
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no result").decode(errors="replace")
    try:
        raise psycopg.errors.lookup(state)(message)
    except KeyError:  # a connection that broke has no SQLSTATE
        raise psycopg.OperationalError(message) from None


class GroupCommit(Generic[Item, Result]):
    """One write for all who wait: those of one tick of the event loop, and those who came while the last write
    was under way.

    ``write`` takes a batch and returns a result for each item, in order. A batch that is refused is split until the
    row at fault stands alone. An item whose waiter has gone before its write began is not written; ``unclaimed``
    hears of each item that was, or may have been, written without its waiter being told.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        unclaimed: Callable[[Item], None],
        *,
        max_batch: int = MAX_BATCH,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._write, self._unclaimed = write, unclaimed
        self._max_batch, self._deadline_s = max_batch, deadline_s
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The result of writing ``item``.

        Raises LedgerUnavailable when it was not known to be written within the deadline (waiting for its turn
        included); what ``write`` raised when the item itself is at fault, such as psycopg.DataError or
        IntegrityError. Cancelling does not stop a write that has begun.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, waiter))
        if self._writing is None:
            self._writing = loop.create_task(self._write_all())  # starts in the next tick
        timer = loop.call_later(self._deadline_s, _expire, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._unclaimed(item)  # cancelled between its result and its turn to take it
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Wait for what has been submitted; each of it ends within its deadline."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[Item, asyncio.Future[Result]]] = []
                while self._waiting and len(batch) < self._max_batch:
                    item, waiter = self._waiting.popleft()
                    if not waiter.done():
                        batch.append((item, waiter))
                if batch:
                    await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: "list[tuple[Item, asyncio.Future[Result]]]") -> None:
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as exc:  # noqa: BLE001 - it reaches whoever waits, and must not stop the next batch
            if not _item_at_fault(exc):
                self._fail(batch, sent=not isinstance(exc, Unreachable))
            elif len(batch) > 1:
                middle = len(batch) // 2
                await self._write_batch(batch[:middle])
                await self._write_batch(batch[middle:])
            elif not batch[0][1].done():
                batch[0][1].set_exception(exc)
        else:
            for (item, waiter), result in zip(batch, results, strict=True):
                if waiter.done():
                    self._unclaimed(item)
                else:
                    waiter.set_result(result)

    def _fail(self, batch: "list[tuple[Item, asyncio.Future[Result]]]", *, sent: bool) -> None:
        for item, waiter in batch:
            _expire(waiter)
            if sent:
                self._unclaimed(item)


def _expire(waiter: "asyncio.Future[Result]") -> None:
    if not waiter.done():
        waiter.set_exception(
            LedgerUnavailable("The ledger cannot be written at the moment. Nothing was sent to a provider.")
        )


def _item_at_fault(exc: Exception) -> bool:
    """Refused by PostgreSQL, or not even encodable; every other error of psycopg is the server's."""
    return isinstance(exc, REFUSED) or not isinstance(exc, psycopg.Error)


class WriteBehind(Generic[Item]):
    """Rows nobody waits for: written ``linger_s`` after the first of a batch, or when a batch is full.

    A failing database is tried again until it takes them. ``refused`` hears of the single row that is not
    accepted, which is then gone. With a ``capacity``, what no longer fits is dropped and counted in ``dropped``.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], Awaitable[object]],
        refused: Callable[[Item, Exception], None],
        *,
        name: str,
        linger_s: float,
        max_batch: int = MAX_BATCH,
        capacity: int | None = None,
    ) -> None:
        self._write, self._refused, self._name = write, refused, name
        self._linger_s, self._max_batch, self._capacity = linger_s, max_batch, capacity
        self._rows: deque[Item] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failing = False
        self.dropped = 0

    def __len__(self) -> int:
        """Rows not yet known to be written."""
        return len(self._rows)

    def put(self, row: Item) -> None:
        """Never blocks, never raises."""
        if self._capacity is not None and len(self._rows) >= self._capacity:
            self.dropped += 1
            return
        self._rows.append(row)
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger_s, self._start)
        elif len(self._rows) >= self._max_batch and not self._failing:
            self._start()

    async def drain(self, timeout_s: float) -> list[Item]:
        """Write what is there without lingering; returns what could not be written in time."""
        deadline = time.monotonic() + timeout_s
        while self._rows and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait((self._start(),), timeout=left_s)
            if self._failing:
                await asyncio.sleep(min(RETRY_S, max(0.0, deadline - time.monotonic())))
        return list(self._rows)

    async def close(self, timeout_s: float) -> list[Item]:
        """As :meth:`drain`, and then stop trying."""
        left = await self.drain(timeout_s)
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait((self._writing,))
        if self._timer is not None:
            self._timer.cancel()
        return left

    def _start(self) -> "asyncio.Task[None]":
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_some())
        return self._writing

    async def _write_some(self) -> None:
        """Write full batches as long as there are any, and in any case one."""
        try:
            while self._rows:
                batch = list(islice(self._rows, self._max_batch))
                await self._write_batch(batch)
                for _ in batch:
                    self._rows.popleft()
                if len(self._rows) < self._max_batch:
                    break
        except psycopg.Error as exc:
            if not self._failing:
                logger.warning("%s cannot be written, %d are waiting: %s", self._name, len(self._rows), exc)
            self._failing = True
        else:
            if self._failing:
                logger.warning("%s are written again", self._name)
            self._failing = False
        finally:
            self._writing = None
            if self._rows:
                delay_s = RETRY_S if self._failing else self._linger_s
                self._timer = asyncio.get_running_loop().call_later(delay_s, self._start)

    async def _write_batch(self, batch: list[Item]) -> None:
        try:
            await self._write(batch)
        except Exception as exc:
            if not _item_at_fault(exc):
                raise
            if len(batch) == 1:
                self._refused(batch[0], exc)
                return
            middle = len(batch) // 2
            await self._write_batch(batch[:middle])
            await self._write_batch(batch[middle:])
