"""Starts Python programs without loading for each what is the same in all: a process that has it loaded forks for each.

Loaded is only what reads neither settings nor the environment: other people's packages and our own modules below
Django. A program finds its own environment, its settings and Django as it would have found them in a new interpreter,
and ends as it would there. It spends a fifth of the processor time on its start.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

ROOT = Path(__file__).resolve().parent.parent
STOP_TIMEOUT_S = 10.0
LONGEST_CALL = 1 << 17  # bytes: an environment and a command line
LOADED = (
    "aiohttp", "celery", "celery.app", "celery.schedules", "channels.routing", "cryptography.fernet",
    "cryptography.hazmat.primitives.ciphers.aead", "django.core.handlers.asgi", "django.core.management",
    "django.db.backends.postgresql.base", "django.db.models", "django.forms", "django.template", "django.test.signals",
    "django.urls", "httptools", "httpx", "kombu", "numpy", "psutil", "psycopg", "psycopg_pool", "pydantic",
    "redis.asyncio", "requests", "rich.traceback", "structlog", "uvicorn.lifespan.on", "uvicorn.main",
    "uvicorn.protocols.http.httptools_impl", "uvloop", "yaml",
    "billing.admission", "billing.groupcommit", "billing.ledger", "billing.pricing", "billing.spool", "billing.windows",
    "gateway.balancing", "gateway.content_log", "gateway.conversations", "gateway.idempotency", "gateway.pipeline",
    "gateway.policy", "gateway.providers.client", "gateway.request_log", "gateway.selection", "routing.classifier",
    "routing.drift", "routing.engine", "routing.evaluation", "routing.experiments", "routing.judge", "routing.routers",
    "routing.rules", "tenants.crypto", "tenants.ratelimit", "tenants.tokens",
)  # fmt: skip


class Started:
    """A program that was started warm, as ``subprocess.Popen`` would tell of it."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        """Its exit code (less than 0: the signal that ended it); None while it runs."""
        return self._heard(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        code = self._heard(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Does nothing when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _heard(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            self._told.settimeout(timeout_s)
            try:
                said = self._told.recv(64)
            except (TimeoutError, BlockingIOError):
                return None
            self._told.close()
            self.returncode = os.waitstatus_to_exitcode(int(said)) if said else -signal.SIGKILL
        return self.returncode


class WarmPython:
    """``start(...)`` is ``python -m MODULE ...`` in the repository's root. Loads with the first start, and ends with
    the block or with this process; what it started goes on."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._calls: socket.socket | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        out: IO[bytes] | int,
        err: IO[bytes] | int,
        stdin: socket.socket | int = subprocess.DEVNULL,
    ) -> Started:
        """``out``, ``err`` and ``stdin`` as for ``subprocess.Popen``, but no pipes. Raises RuntimeError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        call = json.dumps({"module": module, "arguments": list(arguments), "environment": dict(environment)}).encode()
        with theirs, open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            streams = [nothing if stdin == subprocess.DEVNULL else stdin, out, err]
            handed = [theirs.fileno(), *(one if isinstance(one, int) else one.fileno() for one in streams)]
            with self._starting:
                socket.send_fds(self._server(), [call], handed)
        pid = ours.recv(64)
        if not pid:
            raise RuntimeError(f"python -m {module} was not started")
        return Started(int(pid), ours)

    def run(
        self, module: str, arguments: Sequence[str], *, environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """To its end. Raises subprocess.TimeoutExpired, and ends it then."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = self.start(module, arguments, environment=environment, out=out, err=err)
            try:
                code = started.wait(timeout_s)
            except subprocess.TimeoutExpired:
                started.kill()
                raise
            out.seek(0)
            err.seek(0)
            said, erred = out.read().decode(), err.read().decode()
        return subprocess.CompletedProcess([module, *arguments], code, said, erred)

    def _server(self) -> socket.socket:
        if self._calls is None:
            self._calls, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._calls.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_CALL)
            with theirs:
                process = subprocess.Popen([sys.executable, "-m", "tests.warm_python"], cwd=ROOT, stdin=theirs)
            self._end = weakref.finalize(self, _end, self._calls, process)
        return self._calls

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end is not None:
            self._end()
        self._calls = self._end = None


def _end(calls: socket.socket, process: subprocess.Popen[bytes]) -> None:
    calls.close()
    process.wait(STOP_TIMEOUT_S)


warm_python = WarmPython()


# --------------------------------------------------------------------------- in the warm process


def serve(calls: socket.socket) -> tuple[str, list[str]] | None:
    """Fork for every call until nobody is left to call; returns in each fork what that one has to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    while True:
        text, descriptors, _, _ = socket.recv_fds(calls, LONGEST_CALL, 4)
        if not text:
            return None
        if os.fork() == 0:
            calls.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _become(json.loads(text), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(call: dict[str, object], told: int, *streams: int) -> tuple[str, list[str]]:
    """Returns in the program's process only; its parent stays to tell how it ended."""
    program = os.fork()
    if program:
        for stream in (0, 1, 2, *streams):
            os.close(stream)
        _report(program, told)
    os.close(told)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(call["environment"])  # type: ignore[call-overload]
    time.tzset()
    return str(call["module"]), list(call["arguments"])  # type: ignore[call-overload]


def _report(program: int, told: int) -> None:
    """Does not return."""
    os.write(told, str(program).encode())
    _, status = os.waitpid(program, 0)
    try:
        os.write(told, str(status).encode())
    finally:
        os._exit(0)


def load() -> None:
    for module in LOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    load()
    if (asked := serve(socket.socket(fileno=os.dup(0)))) is not None:
        module_, arguments_ = asked
        sys.argv = [module_, *arguments_]
        runpy.run_module(module_, run_name="__main__", alter_sys=True)
