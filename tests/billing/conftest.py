"""A tenant to charge, and a PostgreSQL server of our own that tests may stop and hang."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest
import uuid_utils
from psycopg import sql

from billing.ledger import Ledger, NewAttempt, NewSettlement
from gateway.wire.types import Usage
from tests.e2e import own_postgres
from tests.e2e.own_postgres import OwnPostgres
from tests.provision import Database


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


@pytest.fixture(scope="session")
def own_server() -> Iterator[OwnPostgres]:
    with own_postgres.running() as server:
        yield server


@pytest.fixture
def breakable(own_server: OwnPostgres) -> Callable[[], Charged]:
    return lambda: make_charged(own_server.database.url)
