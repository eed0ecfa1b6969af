"""Calls of models that no client waits for: judging, answers in the shadow, replays, a rule that asks a model.

Each is a line of the ledger with its purpose, holds and is held by the tenant's budgets, and respects circuit breakers
and vendors' limits, as every other call.
"""

import asyncio
import os
import socket
import time
from types import TracebackType
from typing import Self

import redis.asyncio
import uuid_utils
from django.conf import settings

from billing.ledger import Ledger
from billing.spool import SPOOL_FOLDER, Spool
from gateway import observability
from gateway.dispatch import Dispatcher, StalePolicy
from gateway.dispatch.attempt import Purpose
from gateway.errors import Overloaded
from gateway.own_calls import OnBehalf, Reply, own_job, reply_of
from gateway.pipeline import POLICY_ATTEMPTS
from gateway.policy import TenantPolicy
from gateway.providers.addresses import AddressGuard
from gateway.providers.breaker import BreakerRules
from gateway.providers.client import VendorClient
from gateway.providers.health import TargetHealth
from gateway.providers.transport import Transport
from gateway.runtime import load_policy
from gateway.wire.types import Conversation

PATIENCE_S = 5.0  # for room in a budget
LONGEST_S = 120.0  # one call, all of it


class BackgroundCalls:
    """``async with BackgroundCalls("a judge") as calls``: a process of the ledger for as long as the block lasts."""

    def __init__(self, label: str) -> None:
        process_id = str(uuid_utils.uuid7())
        spool = Spool(settings.DATA_DIR / SPOOL_FOLDER, process_id)
        self._ledger = Ledger(
            settings.DATABASE_URL, process_id, f"{label} ({socket.gethostname()}:{os.getpid()})", spool
        )
        self._redis = redis.asyncio.Redis.from_url(settings.REDIS_URL)
        self._transport = Transport(AddressGuard(settings.ALLOWED_UPSTREAMS))
        rules = BreakerRules(failures_in_a_row=settings.BREAKER_FAILURES, cool_down_s=settings.BREAKER_COOL_DOWN_S)
        self._health = TargetHealth(self._redis, rules)
        client = VendorClient(self._transport, heard=self._health.saw_headers)
        self._dispatcher = Dispatcher(client, self._ledger, self._health, PATIENCE_S)

    async def __aenter__(self) -> Self:
        await self._transport.open()
        await self._health.open()
        await self._ledger.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()
        await self._ledger.close()
        await self._health.close()
        await self._redis.aclose()
        observability.count_now()  # the loop may be at its end, and with it the timer that would

    async def ask(
        self, policy: TenantPolicy, model: str, conversation: Conversation, purpose: Purpose, for_whom: OnBehalf
    ) -> Reply:
        """One model's whole answer, from the first of its deployments that gives one.

        Raises GatewayError; KeyError for a model that the tenant does not have.
        """
        for _ in range(POLICY_ATTEMPTS):
            job = own_job(policy, model, conversation, purpose, for_whom, timeout_s=LONGEST_S)
            started = time.perf_counter()
            try:
                completion = await self._dispatcher.complete(job)
            except StalePolicy:
                policy = await asyncio.to_thread(load_policy, policy.id)
                continue
            return reply_of(job, completion, time.perf_counter() - started)
        raise Overloaded("The configuration is changing right now.")
