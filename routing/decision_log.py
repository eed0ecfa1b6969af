"""Writes decisions and the answers that are to be judged beside the traffic: late rather than slow, and lossy rather
than in the way."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Raw, Struct

from billing.groupcommit import PostgresWriter, WriteBehind, json_rows
from routing.features import Vector
from tenants.crypto import Keyring, aad, content_purpose

logger = logging.getLogger(__name__)

CAPACITY = 10_000  # decisions
SAMPLE_CAPACITY = 256  # answers that may wait; with MAX_SAMPLE_BYTES this bounds the memory
MAX_SAMPLE_BYTES = 512 * 1024  # of a request and of its answer; longer ones are not judged
FLUSH_EVERY_S = 0.2
CLOSE_TIMEOUT_S = 5.0
_REMEMBERED_KEYRINGS = 1024

_INSERT_DECISIONS = """
INSERT INTO routing_decision (
  request_id, tenant_id, project_id, token_id, end_user, strategy, engine, state_version, task, complexity, confidence,
  vector, input_tokens, chosen, propensity, explored, candidates, removed, reason, experiment_id, arm, unit, judged,
  judge_probability, challenger, challenger_propensity, model_name, status, finish_reason, output_tokens, cost_usd,
  latency_ms, first_token_ms)
SELECT r.request_id, r.tenant_id, r.project_id, r.token_id, left(r.end_user, 200), r.strategy, r.engine,
  r.state_version, r.task, r.complexity, r.confidence, decode(r.vector, 'base64'), r.input_tokens, r.chosen,
  r.propensity, r.explored, r.candidates, r.removed, left(r.reason, 500), r.experiment_id, coalesce(r.arm, ''),
  coalesce(r.unit, ''),
  r.judged, r.judge_probability, coalesce(r.challenger, ''), r.challenger_propensity, r.model_name, r.status,
  left(r.finish_reason, 24), r.output_tokens, r.cost_pico * 0.000000000001, r.latency_ms, r.first_token_ms
FROM json_to_recordset($1::json) AS r(
  request_id uuid, tenant_id uuid, project_id uuid, token_id uuid, end_user text, strategy text, engine text,
  state_version integer, task text, complexity text, confidence double precision, vector text, input_tokens integer,
  chosen text, propensity double precision, explored boolean, candidates jsonb, removed jsonb, reason text,
  experiment_id uuid, arm text, unit text, judged boolean, judge_probability double precision, challenger text,
  challenger_propensity double precision, model_name text, status smallint, finish_reason text, output_tokens bigint,
  cost_pico numeric, latency_ms double precision, first_token_ms double precision)
ON CONFLICT (request_id) DO NOTHING
"""

_INSERT_SAMPLES = """
INSERT INTO routing_judgesample (request_id, tenant_id, ciphertext, master_key_number, due_at)
SELECT r.request_id, r.tenant_id, decode(r.ciphertext, 'base64'), r.master_key_number, now()
FROM json_to_recordset($1::json) AS r(request_id uuid, tenant_id uuid, ciphertext text, master_key_number smallint)
ON CONFLICT (request_id) DO NOTHING
"""


def stored_vector(vector: Vector) -> bytes:
    """Features as they are kept: 64-bit floats, little-endian."""
    return vector.astype("<f8").tobytes()


def read_vector(stored: bytes) -> Vector:
    """What :func:`stored_vector` wrote."""
    return np.frombuffer(stored, "<f8").astype(np.float64)


class DecisionRow(Struct, frozen=True):
    """One row of :class:`routing.models.Decision`. ``cost_pico`` is in pico-USD, None where a price is unknown."""

    request_id: str
    tenant_id: str
    project_id: str
    token_id: str
    end_user: str
    strategy: str
    engine: str
    state_version: int
    task: str
    complexity: str
    confidence: float
    vector: bytes
    input_tokens: int
    chosen: str
    propensity: float
    explored: bool
    candidates: Any
    removed: dict[str, list[str]]
    reason: str
    experiment_id: str | None
    arm: str | None
    unit: str | None
    judged: bool
    judge_probability: float
    challenger: str | None
    challenger_propensity: float | None
    model_name: str
    status: int
    finish_reason: str
    output_tokens: int
    cost_pico: int | None
    latency_ms: float
    first_token_ms: float | None


class Sample(Struct, frozen=True):
    """A request in its caller's dialect, and the answer: the body that was rendered, or the text of a stream."""

    dialect: str
    request: Raw
    answer: str
    answer_is: Literal["body", "text"]
    finish_reason: str

    def seal(self, keyring: Keyring, tenant_id: str, request_id: str) -> bytes:
        return keyring.encrypt(msgspec.json.encode(self), aad(tenant_id, request_id, ""))

    @classmethod
    def unseal(cls, keyring: Keyring, tenant_id: str, request_id: str, ciphertext: bytes) -> "Sample":
        """Raises tenants.crypto.DecryptionFailed."""
        return msgspec.json.decode(keyring.decrypt(ciphertext, aad(tenant_id, request_id, "")), type=cls)


class _SampleRow(Struct, frozen=True):
    request_id: str
    tenant_id: str
    ciphertext: bytes
    master_key_number: int


class DecisionWriter:
    """Bounded queues before the tables; of samples only ciphertext waits."""

    def __init__(self, database_url: str, master_keys: str) -> None:
        self._connection = PostgresWriter(database_url, "pointsman-decisions")
        self._decisions = WriteBehind(
            self._write_decisions, self._decision_refused, name="decisions", linger_s=FLUSH_EVERY_S, capacity=CAPACITY
        )
        self._samples = WriteBehind(
            self._write_samples,
            self._sample_refused,
            name="judge samples",
            linger_s=FLUSH_EVERY_S,
            capacity=SAMPLE_CAPACITY,
        )
        self._keyring = lru_cache(_REMEMBERED_KEYRINGS)(
            lambda tenant_id: Keyring.parse(master_keys, purpose=content_purpose(tenant_id))
        )

    @property
    def dropped(self) -> int:
        """Decisions and samples for which there was no room."""
        return self._decisions.dropped + self._samples.dropped

    def put(self, row: Callable[[], DecisionRow]) -> None:
        """Never blocks, never raises; without room the row is dropped and counted.

        ``row`` is made when it is written: many one after the other cost less than each beside its request.
        """
        self._decisions.put(row)

    def put_sample(self, tenant_id: str, request_id: str, sample: Sample) -> None:
        """Hand an answer over to the judge; one that is too long is left out."""
        if len(bytes(sample.request)) + len(sample.answer) > MAX_SAMPLE_BYTES:
            return
        keyring = self._keyring(tenant_id)
        sealed = sample.seal(keyring, tenant_id, request_id)
        self._samples.put(_SampleRow(request_id, tenant_id, sealed, keyring.current_id))

    async def close(self, drain_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, for at most ``drain_s`` seconds each."""
        for queue in (self._decisions, self._samples):
            if left := await queue.close(drain_s):
                logger.error("%d decisions or samples could not be written", len(left))
        await self._connection.close()

    async def _write_decisions(self, batch: list[Callable[[], DecisionRow]]) -> None:
        await self._connection.run(_INSERT_DECISIONS, json_rows([row() for row in batch]))

    async def _write_samples(self, batch: list[_SampleRow]) -> None:
        await self._connection.run(_INSERT_SAMPLES, json_rows(batch))

    def _decision_refused(self, row: Callable[[], DecisionRow], exc: Exception) -> None:
        logger.error("PostgreSQL refuses the decision about request %s: %s", row().request_id, exc)

    def _sample_refused(self, row: _SampleRow, exc: Exception) -> None:
        logger.error("PostgreSQL refuses the sample of request %s: %s", row.request_id, exc)
