"""The bridge: the one room that loads ORM rows for the hot path, and that builds the pipeline from settings."""

import asyncio
import os
import socket

import redis.asyncio
import uuid_utils
from django.conf import settings

from billing.ledger import Ledger
from billing.spool import SPOOL_FOLDER, Spool
from gateway import dispatch, observability
from gateway.balancing import Balancer
from gateway.content_log import ContentLogWriter
from gateway.dispatch import Dispatcher
from gateway.idempotency import IdempotentCalls
from gateway.journal import Journal
from gateway.pipeline import Limits, Pipeline
from gateway.providers.addresses import AddressGuard
from gateway.providers.breaker import BreakerRules
from gateway.providers.client import VendorClient
from gateway.providers.health import TargetHealth
from gateway.providers.transport import Transport
from gateway.request_log import RequestLogWriter
from gateway.runtime.policies import PolicyStore, load_policy, routing_facts_of, token_facts
from gateway.runtime.routers import RouterStore
from gateway.selection import Selector
from gateway.stored_answers import StoredAnswers
from routing.judge.samples import SampleWriter
from tenants import tokens
from tenants.crypto import IDEMPOTENT_ANSWER, Keyring
from tenants.ratelimit import RateLimiter

UNATTENDED_GRACE_S = 5.0  # for calls without a caller, after the server's own drain, in which they had their time too

__all__ = ["PolicyStore", "Runtime", "current", "load_policy", "routing_facts_of", "shut_down", "token_facts"]


class Runtime:
    """Everything one serving process holds open. Made in the event loop that will use it."""

    def __init__(self) -> None:
        self.process_id = str(uuid_utils.uuid7())
        database_url = settings.DATABASE_URL
        self.policies = PolicyStore(tokens.Peppers.parse(settings.TOKEN_PEPPERS))
        self.spool = Spool(settings.DATA_DIR / SPOOL_FOLDER, self.process_id)
        self.ledger = Ledger(database_url, self.process_id, f"{socket.gethostname()}:{os.getpid()}", self.spool)
        self.request_log = RequestLogWriter(database_url)
        self.content_log = ContentLogWriter(database_url, settings.MASTER_KEYS)
        self.samples = SampleWriter(database_url, settings.MASTER_KEYS)
        self.redis = redis.asyncio.Redis.from_url(settings.REDIS_URL)
        self.limiter = RateLimiter(self.redis, workers=settings.WEB_WORKERS)
        self.transport = Transport(AddressGuard(settings.ALLOWED_UPSTREAMS))
        rules = BreakerRules(failures_in_a_row=settings.BREAKER_FAILURES, cool_down_s=settings.BREAKER_COOL_DOWN_S)
        self.health = TargetHealth(self.redis, rules)
        self.routers = RouterStore(self.health)
        keyring = Keyring.parse(settings.MASTER_KEYS, purpose=IDEMPOTENT_ANSWER)
        self.idempotent = IdempotentCalls(self.redis, keyring, self.process_id)
        self.pipeline = Pipeline(
            self.policies,
            self.limiter,
            Dispatcher(
                VendorClient(self.transport, heard=self.health.saw_headers),
                self.ledger,
                self.health,
                settings.BUDGET_PATIENCE_S,
            ),
            Balancer(lambda circuit: self.health.first_token_s(circuit, 0.5)),
            journal=Journal(self.request_log, self.content_log, self.samples),
            stored=StoredAnswers(self.redis),
            idempotent=self.idempotent,
            limits=Limits(ip_requests_per_s=settings.IP_RATE_LIMIT),
            selector=Selector(self.routers, self.routers),
        )

    async def open(self) -> None:
        await self.transport.open()
        await self.health.open()
        await self.ledger.open()
        await self.request_log.open()
        self.routers.open()

    def report(self) -> None:
        """What is looked at rather than counted, for the metrics."""
        observability.OPEN_CIRCUITS.set(self.health.open_circuits)
        observability.SETTLEMENTS_WAITING.set(self.ledger.settlements_waiting)
        observability.LOG_ROWS_DROPPED.set(self.request_log.dropped + self.content_log.dropped + self.samples.dropped)

    async def close(self) -> None:
        """Let what is under way finish, then write down what is left to write down."""
        await dispatch.drained(min(UNATTENDED_GRACE_S, settings.DRAIN_S))
        await self.transport.close()
        await self.request_log.close()
        await self.content_log.close()
        await self.samples.close()
        await self.ledger.close()
        await self.idempotent.close()
        await self.health.close()
        await self.limiter.aclose()
        await self.redis.aclose()
        await self.routers.close()
        self.policies.close()
        observability.count_now()


_opening: "asyncio.Task[Runtime] | None" = None


async def current() -> Runtime:
    """This process's runtime, opened by whoever needs it first (the server's start-up, where it has one)."""
    global _opening  # noqa: PLW0603 - one per process is the point
    if _opening is None:
        _opening = asyncio.create_task(_open())
    elif _opening.done():  # nearly always
        return _opening.result()
    return await asyncio.shield(_opening)


async def shut_down() -> None:
    global _opening
    opening, _opening = _opening, None
    if opening is not None:
        await (await opening).close()


async def _open() -> Runtime:
    runtime = Runtime()
    await runtime.open()
    return runtime
