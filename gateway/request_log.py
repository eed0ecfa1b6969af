"""Writes the request log beside the traffic: late rather than slow, and lossy rather than in the way."""

import logging
from collections.abc import Callable

from msgspec import Struct

from billing.groupcommit import PostgresWriter, WriteBehind, json_rows
from routing.decision_log import INSERT_DECISIONS, DecisionRow

logger = logging.getLogger(__name__)

CAPACITY = 10_000  # rows
FLUSH_EVERY_S = 0.2
CLOSE_TIMEOUT_S = 5.0

_INSERT = f"""
WITH given AS MATERIALIZED (
  SELECT * FROM json_to_recordset($1::json) AS r(
    id uuid, tenant_id uuid, project_id uuid, token_id uuid, started_at double precision, dialect text,
    streamed boolean, requested_model text, model_name text, provider_name text, status smallint, error_code text,
    finish_reason text, fallback_used boolean, attempts smallint, input_tokens bigint, output_tokens bigint,
    cost_pico numeric, latency_ms double precision, first_token_ms double precision, overhead_ms double precision,
    end_user text, tags text[], client_ip text)
), logged AS (
  INSERT INTO gateway_requestlog (
    id, tenant_id, project_id, token_id, started_at, dialect, streamed, requested_model, model_name, provider_name,
    status, error_code, finish_reason, fallback_used, attempts, input_tokens, output_tokens, cost_usd, latency_ms,
    first_token_ms, overhead_ms, end_user, tags, client_ip)
  SELECT r.id, r.tenant_id, r.project_id, r.token_id, to_timestamp(r.started_at), r.dialect, r.streamed,
    left(r.requested_model, 200), r.model_name, r.provider_name, r.status, left(r.error_code, 64),
    left(r.finish_reason, 24), r.fallback_used, r.attempts, r.input_tokens, r.output_tokens,
    r.cost_pico * 0.000000000001, r.latency_ms, r.first_token_ms, r.overhead_ms, left(r.end_user, 200),
    r.tags::varchar(64)[], nullif(r.client_ip, '')::inet
  FROM given AS r
  ON CONFLICT (id) DO NOTHING
)
{INSERT_DECISIONS}"""  # noqa: S608 - of two constants


class RequestLogRow(Struct, frozen=True):
    """One row of gateway.models.RequestLog. ``started_at`` is in seconds since 1970, ``cost_pico`` in pico-USD
    (None: the price is unknown)."""

    id: str
    tenant_id: str
    project_id: str
    token_id: str
    started_at: float
    dialect: str
    streamed: bool
    requested_model: str
    model_name: str
    provider_name: str
    status: int
    error_code: str
    finish_reason: str
    fallback_used: bool
    attempts: int
    input_tokens: int
    output_tokens: int
    cost_pico: int | None
    latency_ms: float
    first_token_ms: float | None
    overhead_ms: float
    end_user: str
    tags: tuple[str, ...]
    client_ip: str | None


_Logged = tuple[RequestLogRow, Callable[[], DecisionRow] | None]


class RequestLogWriter:
    """A bounded queue before the table. While the database is away rows are kept as long as there is room."""

    def __init__(self, database_url: str, capacity: int = CAPACITY) -> None:
        self._connection = PostgresWriter(database_url, "pointsman-request-log")
        self._rows = WriteBehind(
            self._write, self._refused, name="request log rows", linger_s=FLUSH_EVERY_S, capacity=capacity
        )
        self._unacceptable = 0

    @property
    def dropped(self) -> int:
        """Rows that will never be in the table: no room, or refused by PostgreSQL."""
        return self._rows.dropped + self._unacceptable

    def put(self, row: RequestLogRow, decision: Callable[[], DecisionRow] | None = None) -> None:
        """Never blocks, never raises; without room the row is dropped and counted.

        The row of the ``decision``, where the request was routed, is made when it is written: many one after the other
        cost less than each beside its request.
        """
        self._rows.put((row, decision))

    async def open(self) -> None:
        """Nothing to do yet: the first row makes the connection."""

    async def close(self, drain_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, for at most ``drain_s`` seconds."""
        left = await self._rows.close(drain_s)
        if left:
            logger.error("%d rows of the request log could not be written", len(left))
        await self._connection.close()

    async def _write(self, batch: list[_Logged]) -> None:
        decisions = [decision() for _, decision in batch if decision is not None]
        await self._connection.run(_INSERT, json_rows([row for row, _ in batch]), json_rows(decisions))

    def _refused(self, logged: _Logged, exc: Exception) -> None:
        row, decision = logged
        if decision is None:
            self._unacceptable += 1
            logger.error("PostgreSQL refuses request log row %s: %s", row.id, exc)
        else:  # one of the two is at fault: the request's own is tried without the other
            logger.error("PostgreSQL refuses request log row %s or its decision: %s", row.id, exc)
            self.put(row)
