"""A PostgreSQL server of a test's own, migrated, that may be stopped as a crash would, or hung."""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg

from tests import provision
from tests.provision import ROOT, Database

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
NO_REDIS = "redis://127.0.0.1:9/0"  # so that a command does not start the embedded one


def _provide_migrated(data: Path) -> list[str]:
    """A copy of a server that was migrated once for all tests on this machine; the command it was started with."""
    shared = Path(os.environ.get("DATA_DIR") or provision.ENVIRONMENT["DATA_DIR"]).resolve()  # `make storm` is no test
    shared.mkdir(parents=True, exist_ok=True)
    kept = shared / f"migrated-{provision.migrations_fingerprint()[:16]}"
    with (kept.parent / "migrated.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            for outdated in kept.parent.glob("migrated-*"):
                shutil.rmtree(outdated)
            with tempfile.TemporaryDirectory(prefix="pg-") as folder:
                _migrate(Path(folder))
                _copy(Path(folder, "postgres"), kept)
        _copy(kept, data)
    return shlex.split((data / "postmaster.opts").read_text())


def _migrate(folder: Path) -> None:
    """A new server, down again when ``manage.py`` has left it."""
    folder.chmod(0o755)  # the server runs as a user of its own
    not_others = ("DATABASE_URL", "DATABASE_OWNER_URL")
    environment = {name: value for name, value in os.environ.items() if name not in not_others}
    command = [sys.executable, "-W", "ignore", "manage.py", "migrate", "--verbosity", "0", "--skip-checks"]
    subprocess.run(command, cwd=ROOT, env=environment | {"DATA_DIR": str(folder), "REDIS_URL": NO_REDIS}, check=True)


def _copy(source: Path, target: Path) -> None:
    """With its owner, whole or not at all."""
    unfinished = target.with_name(f"unfinished-{target.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(unfinished)], check=True)
    unfinished.rename(target)


class OwnPostgres:
    """A server on a unix socket in ``folder``, whose path has to be short."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        started_with = _provide_migrated(self._data)
        made_in = started_with[started_with.index("-D") + 1]
        self._command = [word.replace(made_in, str(self._data)) for word in started_with]
        self.database = Database("pointsman", self._url("pointsman_system"), self._url("pointsman_owner"))

    def start(self) -> None:
        """Returns once it answers."""
        owner = self._data.stat().st_uid
        self._process = subprocess.Popen(
            self._command, user=owner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.database.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """At once and without a checkpoint; does nothing when it is down."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def hang(self) -> None:
        """Connections stay open, and nobody answers on them; the kernel goes on accepting new ones."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def rows(self, query: str, *parameters: object) -> list[tuple]:
        with psycopg.connect(self.database.owner_url, connect_timeout=10) as connection:
            return connection.execute(query, parameters).fetchall()

    def _processes(self) -> list[psutil.Process]:
        """The server's parent first: it then makes no more of them."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def _url(self, role: str) -> str:
        return f"postgresql://{role}@/pointsman?host={self._data}"


@contextmanager
def running() -> Iterator[OwnPostgres]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # short: a socket's path has 108 bytes at most
        Path(folder).chmod(0o755)  # the server runs as a user of its own
        server = OwnPostgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
