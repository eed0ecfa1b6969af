"""Answers on their way to the judge, written beside the traffic: late rather than slow, and lossy rather than in the
way."""

import logging
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from billing.groupcommit import PostgresWriter, WriteBehind, json_rows
from tenants.crypto import Keyring, aad, content_purpose

logger = logging.getLogger(__name__)

CAPACITY = 256  # answers that may wait; with MAX_SAMPLE_BYTES this bounds the memory
MAX_SAMPLE_BYTES = 512 * 1024  # of a request and of its answer; longer ones are not judged
FLUSH_EVERY_S = 0.2
CLOSE_TIMEOUT_S = 5.0
_REMEMBERED_KEYRINGS = 1024

_INSERT_SAMPLES = """
INSERT INTO routing_judgesample (request_id, tenant_id, ciphertext, master_key_number, due_at)
SELECT r.request_id, r.tenant_id, decode(r.ciphertext, 'base64'), r.master_key_number, now()
FROM json_to_recordset($1::json) AS r(request_id uuid, tenant_id uuid, ciphertext text, master_key_number smallint)
ON CONFLICT (request_id) DO NOTHING
"""


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


class SampleWriter:
    """A bounded queue before the table; only ciphertext waits."""

    def __init__(self, database_url: str, master_keys: str) -> None:
        self._connection = PostgresWriter(database_url, "pointsman-judge-samples")
        self._samples = WriteBehind(
            self._write, self._refused, name="judge samples", linger_s=FLUSH_EVERY_S, capacity=CAPACITY
        )
        self._keyring = lru_cache(_REMEMBERED_KEYRINGS)(
            lambda tenant_id: Keyring.parse(master_keys, purpose=content_purpose(tenant_id))
        )

    @property
    def dropped(self) -> int:
        """Samples for which there was no room."""
        return self._samples.dropped

    def put(self, tenant_id: str, request_id: str, sample: Sample) -> None:
        """Hand an answer over to the judge; one that is too long is left out."""
        if len(bytes(sample.request)) + len(sample.answer) > MAX_SAMPLE_BYTES:
            return
        keyring = self._keyring(tenant_id)
        sealed = sample.seal(keyring, tenant_id, request_id)
        self._samples.put(_SampleRow(request_id, tenant_id, sealed, keyring.current_id))

    async def close(self, drain_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, for at most ``drain_s`` seconds."""
        if left := await self._samples.close(drain_s):
            logger.error("%d samples for the judge could not be written", len(left))
        await self._connection.close()

    async def _write(self, batch: list[_SampleRow]) -> None:
        await self._connection.run(_INSERT_SAMPLES, json_rows(batch))

    def _refused(self, row: _SampleRow, exc: Exception) -> None:
        logger.error("PostgreSQL refuses the sample of request %s: %s", row.request_id, exc)
