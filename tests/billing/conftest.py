"""A tenant to charge, and a PostgreSQL server of our own that tests may stop and hang."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest
import uuid_utils
from psycopg import sql

from billing.ledger import Ledger, NewAttempt, NewSettlement
from gateway.wire.types import Usage
from tests.provision import Database

ROOT = Path(__file__).resolve().parent.parent.parent


def new_id() -> str:
    return str(uuid_utils.uuid7())


@dataclass(frozen=True, slots=True)
class Charged:
    """A tenant with what an attempt refers to, and the database it lives in."""

    database_url: str
    tenant_id: str
    project_id: str
    token_id: str
    provider_id: str
    model_id: str

    def rows(self, query: str, *parameters: object) -> list[tuple]:
        with psycopg.connect(self.database_url) as connection:
            return connection.execute(query, parameters).fetchall()

    def execute(self, statement: str, *parameters: object) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement, parameters)

    def epoch(self) -> int:
        return self.rows("SELECT policy_epoch FROM tenants_tenant WHERE id = %s", self.tenant_id)[0][0]

    def attempt(self, **changes: object) -> NewAttempt:
        facts = {
            "id": new_id(),
            "request_id": new_id(),
            "tenant_id": self.tenant_id,
            "policy_epoch": changes.pop("policy_epoch", None) or self.epoch(),
            "project_id": self.project_id,
            "token_id": self.token_id,
            "end_user": "alice",
            "tags": ("night",),
            "purpose": "serve",
            "provider_id": self.provider_id,
            "provider_key_id": None,
            "model_id": self.model_id,
            "vendor_model": "small-1",
            "price_version_id": None,
            "started_at": time.time(),
        }
        return NewAttempt(**{**facts, **changes})

    def settlement(self, attempt_id: str, **changes: object) -> NewSettlement:
        facts = {
            "attempt_id": attempt_id,
            "tenant_id": self.tenant_id,
            "outcome": "settled",
            "usage": Usage(input=10, output=5),
            "cost_pico": 1_000_000,
            "price_version_id": None,
            "status_code": 200,
            "error_code": "",
            "first_token_at": None,
            "ended_at": time.time(),
        }
        return NewSettlement(**{**facts, **changes})


def make_charged(database_url: str) -> Charged:
    tenant, project, token, provider, model = (new_id() for _ in range(5))
    with psycopg.connect(database_url, autocommit=True) as connection:
        _insert(
            connection, "tenants_tenant",
            id=tenant, slug=tenant, name="", enabled=True, time_zone="UTC", log_content=False, policy_epoch=1,
        )  # fmt: skip
        _insert(connection, "tenants_project", id=project, slug="web", name="", tenant_id=tenant)
        _insert(
            connection, "tenants_apitoken",
            id=token, name="ci", digest=token.encode(), pepper_number=1, public_id=token[-12:], last_four="abcd",
            scopes="{}", allowed_models="{}", allowed_cidrs="{}", requests_per_minute=0, project_id=project,
            tenant_id=tenant,
        )  # fmt: skip
        _insert(
            connection, "gateway_provider",
            id=provider, name="lab", kind="openai", base_url="", enabled=True, on_disconnect="cancel", deadlines="{}",
            region="", weight=1, check_status="ok", check_message="", tenant_id=tenant,
        )  # fmt: skip
        _insert(
            connection, "gateway_model",
            id=model, name="small", vendor_model="small-1", enabled=True, capabilities="{}", modality="chat",
            fallbacks="{}", deadlines="{}", tenant_id=tenant, provider_id=provider,
        )  # fmt: skip
    return Charged(database_url, tenant, project, token, provider, model)


def _insert(connection: psycopg.Connection, table: str, **values: object) -> None:
    now = datetime.now(UTC)
    values |= {"created_at": now, "updated_at": now}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    connection.execute(statement, list(values.values()))


@pytest.fixture
def charged(fresh_database: Database) -> Charged:
    return make_charged(fresh_database.url)


@pytest.fixture
async def ledger(charged: Charged) -> AsyncIterator[Ledger]:
    opened = Ledger(charged.database_url, new_id(), "test:1")
    await opened.open()
    yield opened
    await opened.close()


class PostgresServer:
    """A migrated server process."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL")
        }
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0", "--skip-checks"]
        subprocess.run(migrate, cwd=ROOT, env={**environment, "DATA_DIR": str(folder)}, check=True)
        # `manage.py` has stopped it again on leaving; from here on it is ours.
        self._command = shlex.split((self._data / "postmaster.opts").read_text())
        self.url = f"postgresql://pointsman_system@/pointsman?host={self._data}"
        self.start()

    def start(self) -> None:
        owner = self._data.stat().st_uid
        self._process = subprocess.Popen(
            self._command, user=owner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """At once, as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(10)

    def hang(self) -> None:
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            process.resume()

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children()]


@pytest.fixture(scope="session")
def own_server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # short: a socket's path has 108 bytes at most
        Path(folder).chmod(0o755)  # the server runs as a user of its own
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def breakable(own_server: PostgresServer) -> Callable[[], Charged]:
    return lambda: make_charged(own_server.url)
