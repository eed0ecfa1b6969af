"""What every test may call on: databases of its own, and a cast: two tenants who must never meet, an operator."""

import itertools
import os
from collections.abc import Iterator

import pytest
from django.db import connections
from django.test import Client
from pytest_django import DjangoDbBlocker

from audit.record import Actor
from gateway.models import Model, Provider
from tenants.models import ApiToken, Project, Tenant, User
from tests import provision
from tests import redis_server as own_redis
from tests.provision import Database
from tests.redis_server import RedisServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def django_db_setup() -> None:
    """Nothing: tests.provision has made this process's database before Django was set up."""


@pytest.fixture
def fresh_database() -> Iterator[Database]:
    """A migrated database of this test's own, for what a rolled-back transaction cannot show: a server process
    (start it with ``fresh_database.environment()``), several connections."""
    database = provision.create_database(f"{provision.PREFIX}_fresh{next(_numbers)}_{os.getpid()}")
    yield database
    provision.drop_database(database.name)


@pytest.fixture
def real_commits(fresh_database: Database, django_db_blocker: DjangoDbBlocker) -> Iterator[Database]:
    """Django itself works on a fresh database, in this and in new threads, and commits for good.

    Takes the place of pytest-django's ``transactional_db``, which empties tables by TRUNCATE: the gateway's
    role may not do that.
    """
    usual = connections.settings["default"]["NAME"]
    connections["default"].close()
    connections["default"].settings_dict["NAME"] = fresh_database.name
    try:
        with django_db_blocker.unblock():
            yield fresh_database
    finally:
        connections["default"].close()
        connections["default"].settings_dict["NAME"] = usual


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of this test's own, to do harm to."""
    with own_redis.running() as server:
        yield server


@pytest.fixture
def actor() -> Actor:
    """Who acts where it does not matter who does."""
    return Actor("tests")


@pytest.fixture
def operator(db: None) -> User:
    """Signs in without a password, as hashing one takes longer than most tests."""
    return User.objects.create(email="olga@example.com", is_staff=True, is_superuser=True)


@pytest.fixture
def browser(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


@pytest.fixture
def tenant(db: None) -> Tenant:
    return Tenant.objects.create(slug="acme")


@pytest.fixture
def other_tenant(db: None) -> Tenant:
    return Tenant.objects.create(slug="umbrella")


@pytest.fixture
def project(tenant: Tenant) -> Project:
    return Project.objects.create(tenant=tenant, slug="web")


@pytest.fixture
def issued_token(project: Project, actor: Actor) -> tuple[ApiToken, str]:
    """A token of the project, and its text."""
    return ApiToken.issue(tenant=project.tenant, project=project, name="ci", actor=actor)


@pytest.fixture
def token(issued_token: tuple[ApiToken, str]) -> ApiToken:
    return issued_token[0]


@pytest.fixture
def token_text(issued_token: tuple[ApiToken, str]) -> str:
    return issued_token[1]


@pytest.fixture
def provider(tenant: Tenant) -> Provider:
    return Provider.objects.create(
        tenant=tenant, name="lab", kind="openai-compatible", base_url="https://lab.example/v1"
    )


@pytest.fixture
def model(provider: Provider) -> Model:
    return Model.objects.create(tenant=provider.tenant, name="small", provider=provider, vendor_model="small-1")
