"""Runs the server, the worker and the scheduler as children, for ``manage.py up``, and what dies of them or of the
embedded databases again."""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from django.conf import settings

from gateway import embedded

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0  # beyond the server's own draining
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each time that something is started again
STEADY_S = 60.0  # what has run for so long is not counted as failing again
_LOOK_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1


class SupervisorError(RuntimeError):
    """`up` cannot go on; one line an operator can act on."""


class Kept:
    """One thing that is started again when it dies: ``how_it_ended`` returns None while it runs, and words after.

    Attributes:
        restarts: how often it was started again without running steadily since.
    """

    def __init__(
        self, name: str, log: str, how_it_ended: Callable[[], str | None], start: Callable[[], object]
    ) -> None:
        self.restarts = 0
        self._name, self._log, self._how_it_ended, self._start = name, log, how_it_ended, start
        self._started = time.monotonic()
        self._due: float | None = None

    def look(self, now: float) -> None:
        """Start it again, when that is due, by ``time.monotonic()``. Raises SupervisorError after too many times."""
        if self._due is None:
            ended = self._how_it_ended()
            if ended is None:
                return
            self._due = now + self._pause_s(now, ended)
        if now < self._due:
            return
        self._due, self._started = None, now
        try:
            self._start()
        except (embedded.EmbeddedServerError, OSError) as exc:
            logger.debug("%s", exc)  # the next look says that it does not run

    def _pause_s(self, now: float, ended: str) -> float:
        if now - self._started > STEADY_S:
            self.restarts = 0
        if self.restarts == len(PAUSES_S):
            raise SupervisorError(f"{self._name} {ended}, {self.restarts} restarts did not help; see {self._log}.")
        pause_s = PAUSES_S[self.restarts]
        self.restarts += 1
        logger.warning(
            "%s %s; started again in %g s (%d of %d); see %s",
            self._name, ended, pause_s, self.restarts, len(PAUSES_S), self._log,
        )  # fmt: skip
        return pause_s


class Child:
    """A process of ours, which ends with this one."""

    def __init__(self, *command: str, log: Path | None = None) -> None:
        self._command, self._log = command, log
        self.start()

    def start(self) -> None:
        output = self._log.open("ab") if self._log else None
        self.process = subprocess.Popen(  # noqa: S603 - our own command lines
            self._command,
            cwd=settings.BASE_DIR,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its children in order
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads run in this process
        )
        if output:
            output.close()

    def how_it_ended(self) -> str | None:
        code = self.process.poll()
        if code is None:
            return None
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def stop(self) -> None:
        try:
            self.process.wait(settings.DRAIN_S + STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Supervisor:
    def __init__(self, print_line: Callable[[str], object]) -> None:
        self._print = print_line
        self._children: list[Child] = []
        self._kept = _databases()
        self._stopping = False

    def run(self) -> None:
        """Prepare, serve, and wait. Returns after SIGINT or SIGTERM; raises SupervisorError."""
        # Not for `down`, which would load all of Django's models for nothing.
        from django.core.management import call_command  # noqa: PLC0415
        from django.db import connection  # noqa: PLC0415

        from gateway import first_run  # noqa: PLC0415

        self._refuse_taken_port()
        self._refuse_second_instance()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            call_command("migrate", verbosity=0)
            operator = first_run.prepare()
            if operator.new_password:  # at once: nothing that fails later may keep it from being seen
                self._print(f"First operator: {operator.email}, password {operator.new_password} (shown only now)")
            demo_token = first_run.prepare_demo()
            connection.close()
            self._keep("the server", Child(*server_command()), "the lines above")
            self._wait_until_ready()
            logs = Path(settings.DATA_DIR) / "logs"
            logs.mkdir(exist_ok=True)
            log = logs / "worker.log"
            self._keep("the worker", Child(*_celery_command("worker", "--concurrency", "1"), log=log), str(log))
            schedule, log = Path(settings.DATA_DIR) / "run" / "beat-schedule", logs / "beat.log"
            self._keep("the scheduler", Child(*_celery_command("beat", "--schedule", str(schedule)), log=log), str(log))
            for line in first_run.banner(operator, demo_token, _base_url()):
                self._print(line)
            self._watch()
        finally:
            self._stop()
            _pid_file().unlink(missing_ok=True)

    def _refuse_taken_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.HOST, settings.PORT))
            except OSError as exc:
                raise SupervisorError(
                    f"Port {settings.PORT} on {settings.HOST} cannot be used ({exc.strerror}); set PORT to another."
                ) from None

    def _refuse_second_instance(self) -> None:
        if (running := _running()) is not None:
            raise SupervisorError(f"Already running as process {running.pid} with this DATA_DIR; `make down` stops it.")
        _pid_file().parent.mkdir(parents=True, exist_ok=True)
        _pid_file().write_text(str(os.getpid()))

    def _keep(self, name: str, child: Child, log: str) -> None:
        self._children.append(child)
        self._kept.append(Kept(name, log, child.how_it_ended, child.start))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and not self._stopping:
            if self._children[0].how_it_ended() is not None:
                raise SupervisorError("The server did not start; its messages are above.")
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{_base_url()}/health/ready", timeout=2).close()  # noqa: S310 - loopback
                return
            time.sleep(0.05)
        if not self._stopping:
            raise SupervisorError(f"The server was not ready within {READY_TIMEOUT_S:.0f} s.")

    def _watch(self) -> None:
        while not self._stopping:
            for kept in self._kept:
                kept.look(time.monotonic())
            time.sleep(_LOOK_EVERY_S)

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _stop(self) -> None:
        """The server first: what it still settles may need everything else."""
        for child in self._children:
            child.process.terminate()
        for child in self._children:
            child.stop()


def _databases() -> list[Kept]:
    """The embedded servers that this process uses."""
    servers = embedded.provided()
    return [] if servers is None else [_database(servers, name) for name in servers.used]


def _database(servers: embedded.EmbeddedServers, name: str) -> Kept:
    def how_it_ended() -> str | None:
        return None if servers.runs(name) else "died"

    return Kept(name, str(servers.log_of(name)), how_it_ended, partial(servers.start_again, name))


def down() -> str:
    """Stop the `up` of this data directory, and say whether there was one."""
    return "Stopped." if stop_running() else "Nothing is running."


def stop_running() -> bool:
    """Stop the `up` of this data directory and wait for it. Returns whether one was running."""
    running = _running()
    if running is None:
        return False
    running.terminate()
    with suppress(psutil.NoSuchProcess):
        running.wait(settings.DRAIN_S + 2 * STOP_TIMEOUT_S)
    return True


def _running() -> psutil.Process | None:
    with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(_pid_file().read_text()))
        if process.pid != os.getpid() and "up" in process.cmdline():
            return process
    return None


def _pid_file() -> Path:
    return Path(settings.DATA_DIR) / "run" / "up.pid"


def _base_url() -> str:
    host = "127.0.0.1" if settings.HOST in ("0.0.0.0", "") else settings.HOST  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.PORT}"


def server_command() -> tuple[str, ...]:
    """Serves in a process of its own."""
    return (sys.executable, "-m", "gateway.server", *server_options())


def server_options() -> tuple[str, ...]:
    """The one way the gateway is served. What the workers of a former start counted is forgotten first."""
    for counts in (Path(settings.DATA_DIR) / "run" / "metrics").glob("*.db"):
        counts.unlink(missing_ok=True)
    return (
        "gateway.asgi:application",
        "--host", settings.HOST, "--port", str(settings.PORT), "--workers", str(settings.WEB_WORKERS),
        "--loop", "uvloop", "--http", "gateway.connections:CallerConnection", "--ws", "none", "--lifespan", "on",
        "--no-proxy-headers", "--no-server-header", "--no-access-log", "--log-level", "warning",
        "--timeout-graceful-shutdown", str(int(settings.DRAIN_S)),
    )  # fmt: skip


def _celery_command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "--quiet", "--app", "gateway.celery", *arguments)


def _die_with_parent() -> None:
    """In the child: when `up` is killed with -9, its children get SIGTERM (Linux; elsewhere they are orphans)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
