"""Runs the server, the worker and the scheduler as children, for ``manage.py up``."""

import ctypes
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
from pathlib import Path

import psutil
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from gateway import first_run

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0  # beyond the server's own draining
_PR_SET_PDEATHSIG = 1


class SupervisorError(RuntimeError):
    """`up` cannot go on; one line an operator can act on."""


class Supervisor:
    def __init__(self, print_line: Callable[[str], object]) -> None:
        self._print = print_line
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopping = False

    def run(self) -> None:
        """Prepare, serve, and wait. Returns after SIGINT or SIGTERM; raises SupervisorError."""
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
            self._start(*server_command())
            self._wait_until_ready()
            logs = Path(settings.DATA_DIR) / "logs"
            logs.mkdir(exist_ok=True)
            self._start(*_celery_command("worker", "--concurrency", "1"), log=logs / "worker.log")
            schedule = Path(settings.DATA_DIR) / "run" / "beat-schedule"
            self._start(*_celery_command("beat", "--schedule", str(schedule)), log=logs / "beat.log")
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

    def _start(self, *command: str, log: Path | None = None) -> None:
        output = log.open("ab") if log else None
        child = subprocess.Popen(  # noqa: S603 - our own command lines
            command,
            cwd=settings.BASE_DIR,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its children in order
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads run in this process
        )
        self._children.append(child)
        if output:
            output.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and not self._stopping:
            if self._children[0].poll() is not None:
                raise SupervisorError("The server did not start; its messages are above.")
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{_base_url()}/health/ready", timeout=2).close()  # noqa: S310 - loopback
                return
            time.sleep(0.05)
        if not self._stopping:
            raise SupervisorError(f"The server was not ready within {READY_TIMEOUT_S:.0f} s.")

    def _watch(self) -> None:
        while not self._stopping:
            for child in self._children:
                if child.poll() is not None:
                    raise SupervisorError(
                        f"A process ended unexpectedly (exit {child.returncode}); see its log in DATA_DIR/logs."
                    )
            time.sleep(0.2)

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _stop(self) -> None:
        """The server first: what it still settles may need everything else."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(settings.DRAIN_S + STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


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
