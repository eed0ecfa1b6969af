"""What the storm rages over: two gateways on a PostgreSQL and a Redis of their own, and scripted vendors."""

import json
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from gateway.conformance.vendors import VendorServer
from tests import redis_server
from tests.e2e import own_postgres
from tests.e2e.gateway_process import GatewayProcess

TOKENS = {
    name: f"storm-{name}-0123456789-abcdefghij" for name in ("ample", "other", "thrifty")
}  # the last one asks for more than it has
ANSWER_TOKENS = 24
ANSWER = " ".join(f"tok{number}" for number in range(1, ANSWER_TOKENS + 1))
MAX_TOKENS = 100
MODELS = ("plain", "rescued")  # without and with another target
POSTGRES_AWAY_S = 3.0  # longer than an admission waits for it
REAP_AGAIN_AFTER_S = 5.0

# How often in a hundred calls a vendor does what; the rest of the hundred is answered well.
FAULTS = {
    "500": 2.5, "503": 2.5, "reset": 2.0, "cut10rst": 2.5, "cut10fin": 1.5, "stall8": 1.5, "errevent6": 1.0,
    "nousage": 2.5,
}  # fmt: skip

_PRICE = "price: {input: 1.5, output: 6}"
_DECLARATION = """
tenants:
  - slug: storm
    projects: [{{slug: web}}]
    providers:
      - {{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab",
         deadlines: {{connect: 5, first_token: 5, between_chunks: 1, total: 30}}}}
      - {{name: spare, kind: anthropic, base_url: "{url}", api_key: "sk-spare"}}
    models:
      - {{name: plain, provider: lab, vendor_model: plain-{words}, {price}}}
      - {{name: rescued, provider: lab, vendor_model: rescued-{words}, {price}, fallbacks: [spare]}}
      - {{name: spare, provider: spare, vendor_model: spare-{words}, {price}}}
    tokens:
{tokens}
    budgets:
      - {{name: thrifty, scope: token, of: thrifty, limit: {{requests: {thrifty_cap}}}, period: total}}
      - {{name: project, scope: project, of: web, limit: {{usd: "1000"}}, period: month}}
      - {{name: tenant, scope: tenant, limit: {{tokens: 1000000000}}, period: total}}
"""

# As the reaper will find it in some minutes, if nothing happens but that the living go on beating.
_REAP_AHEAD = """
from datetime import timedelta
from django.db import connection, transaction
from billing.reaper import _database_time, reap
ahead = timedelta(minutes=3)
with transaction.atomic():
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_gatewayprocess SET heartbeat_at = heartbeat_at + %s"
            " WHERE split_part(label, ':', 2) = ANY(%s)",
            [ahead, {living}])
    print(reap(_database_time() + ahead).get("waiting", ""))
"""


@dataclass(frozen=True, slots=True)
class Recovery:
    """When something that was broken was there again: seconds since 1970."""

    what: str
    at: float


class Site:
    """A context manager: everything is ended, by its process id, when the block is left.

    Attributes:
        open_for_callers: the gateways that are not known to be down.
        killed: the ids of gateway processes that were killed, as the ledger names them.
    """

    def __init__(self, requests: int, seed: int) -> None:
        self._requests, self._seed = requests, seed
        self._stack = ExitStack()
        self.recoveries: list[Recovery] = []
        self.killed: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storm-")))
            self.vendors = stack.enter_context(VendorServer(process=True))
            self.postgres = stack.enter_context(own_postgres.running())
            self.redis = stack.enter_context(redis_server.running())
            self.gateways = [self._gateway(folder, number) for number in (1, 2)]
            self.gateways[0].apply(self._declaration())
            self._script_vendors()
            for gateway in self.gateways:
                stack.enter_context(gateway)
            self.open_for_callers = list(self.gateways)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # ------------------------------------------------------------------ what breaks

    def kill_gateway(self, number: int) -> None:
        """As ``kill -9`` does, and start it again."""
        gateway = self.gateways[number % 2]
        pid = gateway.pid
        gateway.kill()
        self.open_for_callers.remove(gateway)
        found = self.postgres.rows("SELECT id::text FROM billing_gatewayprocess WHERE label LIKE %s", f"%:{pid}")
        self.killed |= {process_id for (process_id,) in found}
        gateway.start()
        self.open_for_callers.append(gateway)
        self._recovered("gateway")

    def restart_postgres(self) -> None:
        self.postgres.stop()
        time.sleep(POSTGRES_AWAY_S)
        self.postgres.start()
        self._recovered("PostgreSQL")

    def flush_redis(self) -> None:
        with redis.Redis(unix_socket_path=self.redis.socket_path) as client:
            client.flushall()
        self._recovered("Redis")

    # ------------------------------------------------------------------ afterwards

    @property
    def last_recovery(self) -> Recovery:
        return max(self.recoveries, key=lambda recovery: recovery.at)

    def open_attempts(self) -> int:
        query = (
            "SELECT count(*) FROM billing_attempt a"
            " WHERE NOT EXISTS (SELECT FROM billing_settlement s WHERE s.attempt_id = a.id)"
        )
        return int(self.postgres.rows(query)[0][0])

    def settle(self, limit_s: float) -> None:
        """Let the reaper run, as its schedule would, until nothing is open or ``limit_s`` seconds are over."""
        deadline = time.monotonic() + limit_s
        while self.open_attempts() and time.monotonic() < deadline:
            self.gateways[0].manage("reap", "--json")
            time.sleep(REAP_AGAIN_AFTER_S)

    def settle_ahead_of_time(self, limit_s: float) -> None:
        """Let the living settle what is theirs, then run the reaper with its clock put forward.

        Raises AssertionError when it finds a reason to wait all the same.
        """
        lost = list(self.killed)
        theirs = (
            "SELECT count(*) FROM billing_attempt a WHERE NOT a.process_id::text = ANY(%s)"
            " AND NOT EXISTS (SELECT FROM billing_settlement s WHERE s.attempt_id = a.id)"
        )
        deadline = time.monotonic() + limit_s
        while self.postgres.rows(theirs, lost)[0][0] and time.monotonic() < deadline:
            time.sleep(0.2)
        living = [str(gateway.pid) for gateway in self.gateways]
        done = self.gateways[0].manage("shell", "--verbosity", "0", "-c", _REAP_AHEAD.format(living=living))
        assert not done.stdout.strip(), done.stdout

    def proof(self) -> dict[str, Any]:
        """What ``verify_ledger`` says."""
        found: dict[str, Any] = json.loads(self.gateways[0].manage("verify_ledger", "--json", check=False).stdout)
        return found

    # ------------------------------------------------------------------ how it is built

    def _gateway(self, folder: Path, number: int) -> GatewayProcess:
        own = folder / str(number)
        own.mkdir()
        return GatewayProcess(
            self.postgres.database,
            own,
            DATA_DIR=str(folder),  # one for all workers of a machine, spool and secrets included
            REDIS_URL=f"unix://{self.redis.socket_path}",
            IP_RATE_LIMIT="100000",
            BREAKER_COOL_DOWN_S="1",
            BUDGET_PATIENCE_S="0.2",  # what the dead hold comes back no sooner than the reaper
        )

    def _declaration(self) -> str:
        tokens = "\n".join(
            f"      - {{name: {name}, project: web, value: {value}, models: ['*'], requests_per_minute: 100000}}"
            for name, value in TOKENS.items()
        )
        return _DECLARATION.format(
            url=self.vendors.url,
            words=f"tok{ANSWER_TOKENS}-gap5",
            price=_PRICE,
            tokens=tokens,
            thrifty_cap=max(10, self._requests // 20),
        )

    def _script_vendors(self) -> None:
        chance = random.Random(self._seed)
        words, weights = ["ok", *FAULTS], [100 - sum(FAULTS.values()), *FAULTS.values()]
        for model in MODELS:
            self.vendors.script(f"{model}-tok{ANSWER_TOKENS}-gap5", chance.choices(words, weights, k=self._requests))

    def _recovered(self, what: str) -> None:
        self.recoveries.append(Recovery(what, time.time()))
