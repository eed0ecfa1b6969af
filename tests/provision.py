"""Gives every test process a database and a Redis of its own, before Django's settings are read.

A pytest plugin (``-p tests.provision``). Real servers: the embedded ones under ``var/tests``, or those that
``DATABASE_URL``, ``DATABASE_OWNER_URL`` and ``REDIS_URL`` name in the environment (``.env`` is left aside on
purpose: tests must not end up in a developer's data). Migrations run once, into a template database; each
process works on a copy of that, which takes a tenth of a second. The embedded PostgreSQL waits for no disk here: after
a loss of power ``var/tests`` has to be deleted.
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString
from urllib.parse import parse_qs, urlsplit, urlunsplit

import psutil
import psycopg
import pytest
import redis
from psycopg import sql

from gateway import embedded

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "pointsman_test"
TEMPLATE = f"{PREFIX}_template"
DROP_TRIES, SESSION_END_MS = 4, 5_000
NOT_FLUSHED = ("fsync", "full_page_writes", "synchronous_commit")
REDIS_DATABASES = 16  # what Redis has unless told otherwise; 0 is left to others

ENVIRONMENT = {
    "DATA_DIR": str(ROOT / "var" / "tests"),
    "SECRET_KEY": "test-secret-key-of-no-installation-at-all-0123456789",
    "MASTER_KEYS": "1:" + base64.b64encode(b"m" * 32).decode(),
    "TOKEN_PEPPERS": "1:" + base64.b64encode(b"p" * 32).decode(),
    "ALLOWED_UPSTREAMS": "127.0.0.1/32",  # the scripted vendors'
}


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated, empty database: as the gateway connects to it and as its owner does."""

    name: str
    url: str
    owner_url: str

    def environment(self) -> dict[str, str]:
        """What a server process is started with to work on this database."""
        return {"DATABASE_URL": self.url, "DATABASE_OWNER_URL": self.owner_url}


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None]:
    """A wrapper, since pytest-django reads the settings in this very hook and as the first of the others."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _keep_bytecode()
    is_ours = not os.environ.get("DATABASE_URL")
    embedded.provide(Path(os.environ["DATA_DIR"]))
    if is_ours:
        _flush_nothing()
    _drop_abandoned()
    os.environ.update(create_database(f"{PREFIX}_{_worker()}_{os.getpid()}").environment())
    os.environ["REDIS_URL"] = _own_redis(os.environ["REDIS_URL"])
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Modules are handed to workers in the order of their names, not those of the most tests first: the longest have
    the fewest tests, and a worker would go on with one alone when all others are done."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def _keep_bytecode() -> None:
    """Where Python is told to leave none beside the source, every process a test starts would compile all of it
    again: half of what its start takes. This one would do so with all tests."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / "var" / "tests" / "bytecode"))
        sys.dont_write_bytecode = False


def _flush_nothing() -> None:
    """No test takes power away from the embedded PostgreSQL, and a commit need not wait for the disk. What survives a
    crash of the server alone is the same."""
    superuser = urlsplit(_named(os.environ["DATABASE_OWNER_URL"], "postgres"))._replace(netloc="postgres@")
    with psycopg.connect(urlunsplit(superuser), autocommit=True) as connection:
        for name in NOT_FLUSHED:
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(name)))
        connection.execute("SELECT pg_reload_conf()")


def pytest_unconfigure() -> None:
    """Runs in every process, as does the hook above."""
    name = urlsplit(os.environ.get("DATABASE_URL", "")).path.lstrip("/")
    if name == f"{PREFIX}_{_worker()}_{os.getpid()}":
        drop_database(name)


def create_database(name: str) -> Database:
    """A fresh copy of the template, owned by the tables' owner; the template is made where it is missing or old."""
    with _maintenance() as connection:
        # One at a time: nobody may copy a template that somebody else is replacing.
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [TEMPLATE])
        _make_template(connection)
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}" + _quickest_copy(connection))
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
    return _database(name)


def _quickest_copy(connection: psycopg.Connection) -> LiteralString:
    """Where nothing is flushed, the checkpoints that a copy of files takes cost less than writing it all to the log."""
    return " STRATEGY FILE_COPY" if connection.execute("SHOW fsync").fetchone() == ("off",) else ""


def drop_database(name: str) -> None:
    """Drop a database and whoever is still connected to it, or connects again meanwhile.

    Each role ends its own connections: ``WITH (FORCE)`` would need the right to end everybody's, autovacuum's too.
    """
    for tries_left in reversed(range(DROP_TRIES)):
        for url in (os.environ["DATABASE_URL"], os.environ["DATABASE_OWNER_URL"]):
            with psycopg.connect(_named(url, "postgres"), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity "
                    "WHERE datname = %s AND usename = current_user",
                    [SESSION_END_MS, name],
                )
        try:
            with _maintenance() as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        except psycopg.errors.ObjectInUse:
            if not tries_left:
                raise
        else:
            return


def _make_template(connection: psycopg.Connection) -> None:
    """The template says in its comment which migrations it is made of; without one it was never finished."""
    wanted = migrations_fingerprint()
    found = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [TEMPLATE]
    ).fetchone()
    if found == (wanted,):
        return
    template = sql.Identifier(TEMPLATE)
    drop_database(TEMPLATE)
    connection.execute(sql.SQL("CREATE DATABASE {}").format(template))
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0", "--skip-checks"]
    environment = os.environ | _database(TEMPLATE).environment()
    done = subprocess.run(migrate, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise pytest.UsageError(f"The migrations fail:\n{done.stderr}")
    connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(template, sql.Literal(wanted)))


def migrations_fingerprint() -> str:
    """Changes with the migrations, and with the month: migrations make partitions from the current one on."""
    digest = hashlib.sha256(f"{datetime.now(UTC):%Y-%m}".encode())
    for path in sorted([*ROOT.glob("*/migrations/*.py"), *ROOT.glob("*/schema.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _drop_abandoned() -> None:
    """What killed test processes left behind; only on a server of this machine do process numbers say so."""
    if not parse_qs(urlsplit(os.environ["DATABASE_OWNER_URL"]).query).get("host", [""])[0].startswith("/"):
        return
    with _maintenance() as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [PREFIX])
        abandoned = [
            name
            for (name,) in names
            if (process := re.search(r"_(\d+)$", name)) and not psutil.pid_exists(int(process.group(1)))
        ]
    for name in abandoned:
        drop_database(name)


@contextmanager
def _maintenance() -> Iterator[psycopg.Connection]:
    with psycopg.connect(_named(os.environ["DATABASE_OWNER_URL"], "postgres"), autocommit=True) as connection:
        yield connection


def _database(name: str) -> Database:
    return Database(name, _named(os.environ["DATABASE_URL"], name), _named(os.environ["DATABASE_OWNER_URL"], name))


def _named(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _worker() -> str:
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


def _own_redis(url: str) -> str:
    """The database of this worker's number on the same server, emptied."""
    worker = _worker()
    number = 1 if worker == "main" else 2 + int(worker.removeprefix("gw")) % (REDIS_DATABASES - 2)
    server, _, _ = url.partition("?")
    own = f"{server}?db={number}"  # wins over a number in the path
    with redis.Redis.from_url(own) as client:
        client.flushdb()
    return own
