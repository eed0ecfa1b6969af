"""Keeps prompts and answers of tenants who want that, encrypted with their own data key, beside the traffic.

As the request log: late rather than slow, and lossy rather than in the way.
"""

import logging
from functools import lru_cache

import msgspec
from msgspec import Struct

from billing.groupcommit import PostgresWriter, WriteBehind, json_rows
from tenants.crypto import Keyring, aad, content_purpose

logger = logging.getLogger(__name__)

MAX_PART_BYTES = 256 * 1024  # of a prompt, and of an answer
CAPACITY = 256  # rows that may wait; with the limit above this bounds the memory
FLUSH_EVERY_S = 0.5
CLOSE_TIMEOUT_S = 5.0
_REMEMBERED_KEYRINGS = 1024

_INSERT = """
INSERT INTO gateway_requestcontent (request_id, tenant_id, ciphertext, master_key_number)
SELECT r.request_id, r.tenant_id, decode(r.ciphertext, 'base64'), r.master_key_number
FROM json_to_recordset($1::json) AS r(request_id uuid, tenant_id uuid, ciphertext text, master_key_number smallint)
ON CONFLICT (request_id) DO NOTHING
"""


class Content(Struct, frozen=True):
    """What was asked and answered, as text; ``truncated`` where one of them is longer than is kept."""

    request: str
    answer: str
    truncated: bool = False

    @classmethod
    def of(cls, request: bytes, answer: bytes) -> "Content":
        asked, told = (part[:MAX_PART_BYTES].decode(errors="replace") for part in (request, answer))
        return cls(asked, told, truncated=max(len(request), len(answer)) > MAX_PART_BYTES)

    @classmethod
    def unseal(cls, keyring: Keyring, tenant_id: str, request_id: str, ciphertext: bytes) -> "Content":
        """Raises tenants.crypto.DecryptionFailed."""
        return msgspec.json.decode(keyring.decrypt(ciphertext, aad(tenant_id, request_id, "")), type=cls)

    def seal(self, keyring: Keyring, tenant_id: str, request_id: str) -> bytes:
        return keyring.encrypt(msgspec.json.encode(self), aad(tenant_id, request_id, ""))


class _Row(Struct, frozen=True):
    request_id: str
    tenant_id: str
    ciphertext: bytes
    master_key_number: int


class ContentLogWriter:
    """A bounded queue before the table; only ciphertext waits in it."""

    def __init__(self, database_url: str, master_keys: str) -> None:
        self._connection = PostgresWriter(database_url, "pointsman-content-log")
        self._rows = WriteBehind(
            self._write, self._refused, name="request contents", linger_s=FLUSH_EVERY_S, capacity=CAPACITY
        )
        self._keyring = lru_cache(_REMEMBERED_KEYRINGS)(
            lambda tenant_id: Keyring.parse(master_keys, purpose=content_purpose(tenant_id))
        )

    @property
    def dropped(self) -> int:
        """Contents for which there was no room."""
        return self._rows.dropped

    def put(self, tenant_id: str, request_id: str, request: bytes, answer: bytes) -> None:
        """Never blocks, never raises for want of room."""
        keyring = self._keyring(tenant_id)
        sealed = Content.of(request, answer).seal(keyring, tenant_id, request_id)
        self._rows.put(_Row(request_id, tenant_id, sealed, keyring.current_id))

    async def close(self, drain_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, for at most ``drain_s`` seconds."""
        if left := await self._rows.close(drain_s):
            logger.error("%d request contents could not be written", len(left))
        await self._connection.close()

    async def _write(self, batch: list[_Row]) -> None:
        await self._connection.run(_INSERT, json_rows(batch))

    def _refused(self, row: _Row, exc: Exception) -> None:
        logger.error("PostgreSQL refuses the content of request %s: %s", row.request_id, exc)
