"""The ledger's two writes: an attempt before a vendor is called, its settlement afterwards.

An attempt's row is committed, flushed to disk, before :meth:`Ledger.admit` returns; only then may a byte go to a
vendor. The same statement compares the tenant's policy epoch, so that a revoked token or a changed model acts on
the very next request of every process. Both writes are group commits on connections of their own: settlements
never hold up admissions.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Literal

import psycopg
from msgspec import Struct, structs

from billing.budgets import Period, Reservation
from billing.groupcommit import MAX_BATCH, REFUSED, GroupCommit, PostgresWriter, WriteBehind, json_rows
from billing.spool import Spool, SpoolFull
from gateway.errors import LedgerUnavailable
from gateway.wire.types import Usage

logger = logging.getLogger(__name__)

ADMISSION_DEADLINE_S = 1.8  # of the two seconds after which a caller is told; the rest is for telling it
HEARTBEAT_S = 5.0
SETTLE_LINGER_S = 0.01  # bounds what a kill -9 takes along; long enough to share a commit under load
CLOSE_TIMEOUT_S = 10.0
RETRYING_AT_ONCE = 16  # of those who wait for a budget's room; the others stand in line behind them
ROOM_POLL_S = 0.05  # other processes' settlements are not heard of
UUID_CHARS = 36
_NOTHING_RESERVED: dict[str, object] = {
    "budgets": [], "input_pico": 0, "likely_pico": 0, "output_pico": 0, "input_tokens": 0, "likely_tokens": 0,
    "output_tokens": 0, "choices": 1, "requests": 0, "patient": True,
}  # fmt: skip

# The functions are billing.schema's. $1: process id, $2: attempts, $3: the budget periods that hold for any of them.
_ADMIT = "SELECT pointsman_admit($1::uuid, $2::json, $3::json)"
_SETTLE = "SELECT pointsman_settle($1::json)"
_WITHDRAW = "SELECT pointsman_withdraw($1::json)"

# $1: connection name. A connection that was given up may still hold a statement the server has yet to finish.
_END_FORMER_CONNECTIONS = """
SELECT pg_terminate_backend(pid, 500) FROM pg_stat_activity
WHERE application_name = $1 AND pid <> pg_backend_pid() AND usename = current_user
"""

_BEAT = """
INSERT INTO billing_gatewayprocess (id, label, started_at, heartbeat_at) VALUES ($1::uuid, left($2, 200), now(), now())
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()
"""
_LEAVE = "DELETE FROM billing_gatewayprocess WHERE id = $1::uuid"


class NewAttempt(Struct, frozen=True):
    """A call about to be made. Ids are UUID texts; ``started_at`` is in seconds since 1970, exact to the
    microsecond; ``reservation`` is what it asks of the budgets that hold for it (None: none does)."""

    id: str
    request_id: str
    tenant_id: str
    policy_epoch: int
    project_id: str
    token_id: str | None
    end_user: str
    tags: tuple[str, ...]
    purpose: str
    provider_id: str
    provider_key_id: str | None
    model_id: str
    vendor_model: str
    price_version_id: str | None
    started_at: float
    discount_bp: int = 0
    task_type: str = ""
    complexity: str = ""
    reservation: Reservation | None = None


class NewSettlement(Struct, frozen=True):
    """How an attempt ended. ``cost_pico`` and ``saved_pico`` are pico-USD, a cost of None is an unknown price;
    ``first_token_at`` and ``ended_at`` are seconds since 1970."""

    attempt_id: str
    tenant_id: str
    outcome: str
    usage: Usage
    cost_pico: int | None
    price_version_id: str | None
    status_code: int | None
    error_code: str
    first_token_at: float | None
    ended_at: float
    saved_pico: int = 0


Verdict = Literal["admitted", "stale", "full", "waiting"]


class Admission(Struct, frozen=True):
    """What became of an attempt.

    ``admitted``: its row is committed, and its answer may have ``output_tokens`` (None: no budget holds for it).
    ``stale``: the tenant changed since its policy was loaded, or is switched off. ``full``: ``period`` has no room for
    it. ``waiting``: ``period`` would have room but for what running attempts hold of it. ``cap``, ``spent`` and
    ``held`` are then that period's, in its budget's metric, and ``asked`` is what it had no room for. Of a rolling
    window ``oldest_ends_at`` is the end of the first slice in it that something was used in (seconds since 1970).
    """

    verdict: Verdict
    output_tokens: int | None = None
    period: Period | None = None
    cap: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    asked: Reservation | None = None
    oldest_ends_at: float | None = None


ADMITTED = Admission("admitted")
STALE = Admission("stale")


class Ledger:
    """One process's way into the ledger. ``label`` tells operators which process it is.

    A settlement that PostgreSQL cannot take goes to ``spool``, flushed to the local disk, and from there into the
    ledger once that is back (without a spool it stays in memory). What a process had in memory when it was killed is
    closed by the reaper, as is every attempt whose process no longer beats.
    """

    def __init__(self, database_url: str, process_id: str, label: str, spool: Spool | None = None) -> None:
        self._process_id, self._label = process_id.encode(), label.encode()
        self._spool = spool
        self._away = False  # PostgreSQL did not answer the last time it was asked
        self._spool_failing = False
        self._room = asyncio.Event()  # a settlement has given something back
        self._retrying = asyncio.Semaphore(RETRYING_AT_ONCE)
        self._admission = PostgresWriter(
            database_url, f"pointsman-admission-{process_id}", timeout_s=ADMISSION_DEADLINE_S
        )
        self._settlement = PostgresWriter(database_url, f"pointsman-settlement-{process_id}")
        self._admissions = GroupCommit(
            self._write_attempts, lambda attempt: self._withdrawn.append(attempt.id), deadline_s=ADMISSION_DEADLINE_S
        )
        self._settlements = WriteBehind(self._write_settlements, _refused, name="settlements", linger_s=SETTLE_LINGER_S)
        self._registered = False
        self._withdrawn: list[str] = []
        self._heart: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Register this process. While the database is away that is left to the first admission."""
        if not await self.ready():
            logger.warning("the ledger cannot be written yet")
        await self._try_out_spool()
        self._heart = asyncio.create_task(self._beat_for_ever())

    async def admit(
        self, attempt: NewAttempt, patience_s: float = 0.0, renewed: Callable[[], Reservation | None] | None = None
    ) -> Admission:
        """Commit the attempt with its reservation. Unless the verdict is ``admitted``, nothing may be sent to the
        vendor. Where running attempts hold all that is left of a budget, waits ``patience_s`` seconds for some of it
        to come back; whoever came first is served first. ``renewed`` gives the reservation by what is known then.

        Raises LedgerUnavailable when the database does not answer within ``ADMISSION_DEADLINE_S`` seconds;
        psycopg.DataError or IntegrityError for an attempt that contradicts the database. What was committed without
        the caller hearing of it (cancelled, out of time, connection lost) is settled as cancelled, at no cost, within
        a heartbeat or two.
        """
        if self._spool_failing:
            raise LedgerUnavailable("The ledger cannot be written at the moment. Nothing was sent to a provider.")
        admission = await self._admissions.submit(attempt)
        if admission.verdict != "waiting":
            return admission
        deadline = time.monotonic() + patience_s
        async with self._retrying:
            patient = True
            while patient:
                left_s = deadline - time.monotonic()
                patient = left_s > 0
                if patient:
                    await self._wait_for_room(min(left_s, ROOM_POLL_S))
                try:
                    admission = await self._admissions.submit(_renewed(attempt, renewed, patient=patient))
                except LedgerUnavailable:
                    if not patient:
                        raise
                    continue  # there is time left to ask again
                if admission.verdict != "waiting":
                    break
            return admission

    async def _wait_for_room(self, timeout_s: float) -> None:
        """Until this process has settled something, or others may have."""
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._room.wait()

    def settle(self, settlement: NewSettlement) -> None:
        """Queue the settlement: never blocks, never raises. The first one of an attempt counts."""
        self._settlements.put(settlement)

    async def drain(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Whether every settlement queued so far has been written."""
        return not await self._settlements.drain(timeout_s)

    async def ready(self) -> bool:
        """Whether the ledger can be written."""
        return all((await self.parts()).values())

    async def parts(self) -> dict[str, bool]:
        """Whether each of what it is written with takes anything: the ``database``, and the ``spool`` on the disk."""
        try:
            await self._beat()
        except psycopg.Error:
            return {"database": False, "spool": not self._spool_failing}
        return {"database": True, "spool": not self._spool_failing}

    async def close(self) -> None:
        """Write what is left and sign off; call when no request is under way."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait((self._heart,))
        await self._admissions.close()
        left = await self._settlements.close(CLOSE_TIMEOUT_S)
        if left and not await self._spooled(left):
            for settlement in left:
                logger.error("a settlement could not be written: %r", settlement)
        try:
            await self._replay()
            await self._withdraw()
            if self._spool is None or self._spool.empty:
                await self._settlement.run(_LEAVE, self._process_id)
        except psycopg.Error as exc:
            logger.warning("this process could not sign off from the ledger: %s", exc)
        if self._spool is not None:
            await asyncio.to_thread(self._spool.close)
        await self._admission.close()
        await self._settlement.close()

    async def _write_attempts(self, batch: list[NewAttempt]) -> Sequence[Admission]:
        if not self._registered:  # an attempt of an unknown process is the reaper's
            await self._beat()
        rows, periods = _with_periods(batch)
        lines = await self._admission.run(_ADMIT, self._process_id, json_rows(rows), json_rows(periods))
        told = {line[:UUID_CHARS]: line[UUID_CHARS + 1 :] for line in lines}
        return [_admission_of(told, new, periods) for new in batch]

    # ------------------------------------------------------------------ settlements, here or on the disk

    @property
    def settlements_waiting(self) -> int:
        """In this process's memory alone: neither in the ledger yet nor in the spool."""
        return len(self._settlements)

    async def _write_settlements(self, batch: list[NewSettlement]) -> None:
        if self._away and await self._spooled(batch):
            return
        try:
            await self._settlement.run(_SETTLE, json_rows(batch))
        except REFUSED:
            raise
        except psycopg.Error:
            self._away = True
            if not await self._spooled(batch):
                raise  # they stay in memory
        else:
            self._away = self._spool_failing = False
            self._room.set()

    async def _try_out_spool(self) -> None:
        """An operator hears of a bad disk before it is needed."""
        if self._spool is None:
            return
        try:
            await asyncio.to_thread(self._spool.try_out)
        except OSError as exc:
            logger.error("without PostgreSQL settlements would be in memory alone, as there is no spool: %s", exc)

    async def _spooled(self, batch: Sequence[NewSettlement]) -> bool:
        """Whether they are safe on the disk. If not, nothing new is admitted until they are."""
        if self._spool is None:
            return False
        lines = [json_rows([settlement])[1:-1] for settlement in batch]
        try:
            await asyncio.to_thread(self._spool.append, lines)
        except (SpoolFull, OSError, ValueError) as exc:
            if not self._spool_failing:
                logger.error("settlements can be written neither to PostgreSQL nor to the spool: %s", exc)
            self._spool_failing = True
            return False
        self._spool_failing = False
        return True

    async def _replay(self) -> None:
        """Bring into the ledger what this process, or one that has died, has put on the disk. Raises psycopg.Error."""
        if self._spool is None:
            return
        try:
            await self._empty(self._spool)
        except OSError as exc:  # a disk that only reads: nothing is lost, and all else goes on
            logger.error("the spool cannot be emptied: %s", exc)
        self._spool_failing = False

    async def _empty(self, spool: Spool) -> None:
        while segments := await asyncio.to_thread(spool.segments_to_replay):
            for segment in segments:
                records = spool.read(segment)
                while lines := await asyncio.to_thread(_some, records):
                    await self._settle_lines(lines)
                await asyncio.to_thread(spool.remove, segment)
                logger.warning("replayed settlements from %s", segment.name)

    async def _settle_lines(self, lines: list[bytes]) -> None:
        try:
            await self._settlement.run(_SETTLE, b"[" + b",".join(lines) + b"]")
        except REFUSED as exc:
            if len(lines) == 1:
                logger.error("PostgreSQL refuses a spooled settlement (%s): %s", exc, lines[0].decode(errors="replace"))
                return
            middle = len(lines) // 2
            await self._settle_lines(lines[:middle])
            await self._settle_lines(lines[middle:])

    # ------------------------------------------------------------------ the heartbeat

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._beat()
                await self._replay()
                await self._withdraw()
            except psycopg.Error as exc:
                logger.warning("no heartbeat in the ledger: %s", exc)
            except Exception:
                logger.exception("a heartbeat in the ledger failed on a bug")

    async def _beat(self) -> None:
        try:
            await self._settlement.run(_BEAT, self._process_id, self._label)
        except psycopg.Error:
            self._registered = False
            raise
        self._registered, self._away = True, False

    async def _withdraw(self) -> None:
        """Settle attempts that may have been committed although nobody was told, at no cost.

        On the admission connection, so after whatever it was doing, and only once no former one can commit.
        """
        if not self._withdrawn:
            return
        ended = await self._admission.run(_END_FORMER_CONNECTIONS, self._admission.name.encode())
        if "f" in ended:
            return
        withdrawn = self._withdrawn[:]
        await self._admission.run(_WITHDRAW, json_rows(withdrawn))
        del self._withdrawn[: len(withdrawn)]


def _some(records: Iterator[bytes]) -> list[bytes]:
    return list(islice(records, MAX_BATCH))


def _with_periods(batch: Sequence[NewAttempt]) -> tuple[Sequence[object], list[Period]]:
    """The batch as the database reads it, and the periods its budgets are in: attempts name them by their number."""
    if not any(new.reservation for new in batch):
        return batch, []
    periods: dict[str, Period] = {}
    numbers: dict[str, int] = {}
    rows = []
    for new in batch:
        row = structs.asdict(new)
        reservation = row.pop("reservation")
        if reservation is None:
            row |= _NOTHING_RESERVED
        else:
            row |= structs.asdict(reservation)
            for period in row.pop("periods"):
                numbers.setdefault(period.id, len(numbers))
                periods[period.id] = period
            row["budgets"] = [numbers[period.id] for period in reservation.periods]
        rows.append(row)
    return rows, [structs.replace(period, n=number) for number, period in enumerate(periods.values())]


def _renewed(attempt: NewAttempt, renewed: Callable[[], Reservation | None] | None, *, patient: bool) -> NewAttempt:
    reservation = renewed() if renewed is not None else attempt.reservation
    assert reservation is not None  # noqa: S101 - without one nothing is waited for
    return structs.replace(attempt, reservation=structs.replace(reservation, patient=patient))


def _admission_of(told: Mapping[str, str], new: NewAttempt, periods: Sequence[Period]) -> Admission:
    """What :mod:`billing.schema` says of one attempt, by the lines it returned."""
    own = told.get(new.id)
    if own is None:
        return STALE
    verdict, *numbers = own.split(" ")
    if verdict == "admitted":
        return ADMITTED if new.reservation is None else Admission("admitted", int(numbers[0]))
    number, cap, spent, held = numbers
    period = periods[int(number)]
    oldest = told.get(period.id)
    return Admission(
        verdict,  # type: ignore[arg-type]
        period=period,
        cap=Decimal(cap),
        spent=Decimal(spent),
        held=Decimal(held),
        asked=new.reservation,
        oldest_ends_at=float(oldest.split(" ")[1]) if oldest else None,
    )


def _refused(settlement: NewSettlement, exc: Exception) -> None:
    logger.error("PostgreSQL refuses a settlement (%s): %r", exc, settlement)
