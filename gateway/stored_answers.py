"""Where answers are stored that a later request goes on from: with the deployment that gave them, and nowhere else.

The Responses dialect names an earlier answer instead of repeating the conversation. Of a model with several
deployments the one that gave it is remembered in Redis, beside the traffic; where that cannot tell, the request goes
where its id leads it (:mod:`gateway.balancing`).
"""

import asyncio
from collections.abc import Sequence

import redis.asyncio
from redis.exceptions import RedisError

from gateway.dispatch.unattended import keep
from gateway.providers.target import Target

KEPT_S = 30 * 24 * 3600  # as long as vendors keep them
REDIS_TIMEOUT_S = 0.05  # on a caller's time


class StoredAnswers:
    def __init__(self, shared: redis.asyncio.Redis) -> None:
        self._redis = shared

    async def first(self, targets: Sequence[Target], tenant_id: str, answer_id: str) -> list[Target]:
        """``targets`` with the one that has this answer before the others; as they are where nobody knows."""
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                found = await self._redis.get(_key(tenant_id, answer_id))
        except (RedisError, OSError, TimeoutError):
            found = None
        home = found.decode() if isinstance(found, bytes) else None
        return sorted(targets, key=lambda target: target.circuit != home)

    def note(self, tenant_id: str, answer_id: str, target: Target) -> None:
        """``target`` has given this answer. Nobody waits for that to be written down."""
        keep(asyncio.create_task(self._write(_key(tenant_id, answer_id), target.circuit)))

    async def _write(self, key: str, circuit: str) -> None:
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S * 10):
                await self._redis.set(key, circuit.encode(), ex=KEPT_S)
        except (RedisError, OSError, TimeoutError):
            pass  # the next request goes where its id leads it


def _key(tenant_id: str, answer_id: str) -> str:
    return f"pointsman:answer:{tenant_id}:{answer_id}"
