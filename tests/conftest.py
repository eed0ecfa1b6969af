"""What every test may call on: databases of its own."""

import itertools
import os
from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django import DjangoDbBlocker

from tests import provision
from tests.provision import Database

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
