"""The ledger's two writes: an attempt before a vendor is called, its settlement afterwards.

An attempt's row is committed, flushed to disk, before :meth:`Ledger.admit` returns; only then may a byte go to a
vendor. The same statement compares the tenant's policy epoch, so that a revoked token or a changed model acts on
the very next request of every process. Both writes are group commits on connections of their own: settlements
never hold up admissions.
"""

import asyncio
import enum
import logging
from collections.abc import Sequence

import psycopg
from msgspec import Struct

from billing.groupcommit import GroupCommit, PostgresWriter, WriteBehind, json_rows
from gateway.wire.types import Usage

logger = logging.getLogger(__name__)

ADMISSION_DEADLINE_S = 1.8  # of the two seconds after which a caller is told; the rest is for telling it
HEARTBEAT_S = 5.0
SETTLE_LINGER_S = 0.01  # bounds what a kill -9 takes along; long enough to share a commit under load
CLOSE_TIMEOUT_S = 10.0

# $1: process id, $2: attempts. Whoever is missing from what it returns was overtaken by a change of policy.
# Money is multiplied, not divided: a numeric product is exact.
_ADMIT = """
INSERT INTO billing_attempt (
  id, request_id, tenant_id, project_id, token_id, end_user, tags, purpose, provider_id, provider_key_id, model_id,
  vendor_model, price_version_id, process_id, held_usd, started_at)
SELECT r.id, r.request_id, r.tenant_id, r.project_id, r.token_id, left(r.end_user, 200), r.tags, r.purpose,
  r.provider_id, r.provider_key_id, r.model_id, r.vendor_model, r.price_version_id, $1::uuid,
  r.held_pico * 0.000000000001, to_timestamp(r.started_at)
FROM json_to_recordset($2::json) AS r(
  id uuid, request_id uuid, tenant_id uuid, policy_epoch bigint, project_id uuid, token_id uuid, end_user text,
  tags jsonb, purpose text, provider_id uuid, provider_key_id uuid, model_id uuid, vendor_model text,
  price_version_id uuid, held_pico numeric, started_at double precision)
JOIN tenants_tenant t ON t.id = r.tenant_id AND t.policy_epoch = r.policy_epoch AND t.enabled
RETURNING id
"""

_SETTLE = """
INSERT INTO billing_settlement (
  attempt_id, tenant_id, outcome, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
  output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, usage_source, cost_usd,
  price_version_id, saved_usd, status_code, error_code, first_token_at, ended_at)
SELECT r.attempt_id, r.tenant_id, r.outcome, u.input, u.cached_input, u.cache_write_5m, u.cache_write_1h, u.output,
  u.reasoning, u.audio_input, u.audio_output, u.source, r.cost_pico * 0.000000000001, r.price_version_id,
  r.saved_pico * 0.000000000001, r.status_code, left(r.error_code, 64), to_timestamp(r.first_token_at),
  to_timestamp(r.ended_at)
FROM json_to_recordset($1::json) AS r(
  attempt_id uuid, tenant_id uuid, outcome text, usage json, cost_pico numeric, price_version_id uuid,
  status_code smallint, error_code text, first_token_at double precision, ended_at double precision,
  saved_pico numeric),
json_to_record(r.usage) AS u(
  input bigint, cached_input bigint, cache_write_5m bigint, cache_write_1h bigint, output bigint, reasoning bigint,
  audio_input bigint, audio_output bigint, source text)
ON CONFLICT (attempt_id) DO NOTHING
"""

# $1: ids of attempts after which nothing was sent, as a JSON list; not all of them need exist.
_WITHDRAW = """
INSERT INTO billing_settlement (
  attempt_id, tenant_id, outcome, input_tokens, cached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
  output_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens, usage_source, cost_usd,
  price_version_id, saved_usd, error_code, ended_at)
SELECT id, tenant_id, 'cancelled', 0, 0, 0, 0, 0, 0, 0, 0, 'counted', 0, price_version_id, 0, 'not_sent', now()
FROM billing_attempt WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
ON CONFLICT (attempt_id) DO NOTHING
"""

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
    microsecond; ``held_pico`` is the budget reserved for it, in pico-USD."""

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
    held_pico: int | None
    started_at: float


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


class Admission(enum.Enum):
    ADMITTED = "admitted"
    STALE_POLICY = "stale_policy"  # the tenant changed since its policy was loaded, or is switched off


class Ledger:
    """One process's way into the ledger. ``label`` tells operators which process it is.

    A settlement stays in memory until PostgreSQL has taken it, however long that is away. What a process had in
    memory when it was killed is closed by the reaper, as is every attempt whose process no longer beats.
    """

    def __init__(self, database_url: str, process_id: str, label: str) -> None:
        self._process_id, self._label = process_id.encode(), label.encode()
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
        self._heart = asyncio.create_task(self._beat_for_ever())

    async def admit(self, attempt: NewAttempt) -> Admission:
        """Commit the attempt. Unless this returns ADMITTED, nothing may be sent to the vendor.

        Raises LedgerUnavailable within ``ADMISSION_DEADLINE_S`` seconds; psycopg.DataError or IntegrityError for an
        attempt that contradicts the database. What was committed without the caller hearing of it (cancelled, out
        of time, connection lost) is settled as cancelled, at no cost, within a heartbeat or two.
        """
        return await self._admissions.submit(attempt)

    def settle(self, settlement: NewSettlement) -> None:
        """Queue the settlement: never blocks, never raises. The first one of an attempt counts."""
        self._settlements.put(settlement)

    async def drain(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Whether every settlement queued so far has been written."""
        return not await self._settlements.drain(timeout_s)

    async def ready(self) -> bool:
        """Whether the ledger can be written."""
        try:
            await self._beat()
        except psycopg.Error:
            return False
        return True

    async def close(self) -> None:
        """Write what is left and sign off; call when no request is under way."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait((self._heart,))
        await self._admissions.close()
        for settlement in await self._settlements.close(CLOSE_TIMEOUT_S):
            logger.error("a settlement could not be written: %r", settlement)
        try:
            await self._withdraw()
            await self._settlement.run(_LEAVE, self._process_id)
        except psycopg.Error as exc:
            logger.warning("this process could not sign off from the ledger: %s", exc)
        await self._admission.close()
        await self._settlement.close()

    async def _write_attempts(self, batch: list[NewAttempt]) -> Sequence[Admission]:
        if not self._registered:  # an attempt of an unknown process is the reaper's
            await self._beat()
        admitted = set(await self._admission.run(_ADMIT, self._process_id, json_rows(batch)))
        return [Admission.ADMITTED if new.id in admitted else Admission.STALE_POLICY for new in batch]

    async def _write_settlements(self, batch: list[NewSettlement]) -> None:
        await self._settlement.run(_SETTLE, json_rows(batch))

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._beat()
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
        self._registered = True

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


def _refused(settlement: NewSettlement, exc: Exception) -> None:
    logger.error("PostgreSQL refuses a settlement (%s): %r", exc, settlement)
