"""Runs management commands without starting Python for each: a process that has everything loaded forks for each one.

What a command does is what ``manage.py`` would do with the same environment, in a process of its own that ends with
it. Only the two seconds of loading the code are spent once.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import django

from tests.warm_python import Started, warm_python

STOP_TIMEOUT_S = 10.0
_LONGEST_CALL = 1 << 16  # bytes


class WarmCommands:
    """``run(...)`` is ``python manage.py ...`` with ``environment``. Starts with the first call and again with the
    first after ``close()``; calls from several threads run at the same time.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._starting = threading.Lock()
        self._calls: socket.socket | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def run(self, *arguments: str, timeout_s: float, **extra: str) -> subprocess.CompletedProcess[str]:
        """``extra`` is added to the environment after the settings were read. Raises TimeoutError."""
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with theirs:
                call = json.dumps({"arguments": arguments, "environment": extra}).encode()
                socket.send_fds(self._server(), [call], [theirs.fileno(), out.fileno(), err.fileno()])
            ours.settimeout(timeout_s)
            told = ours.recv(16)
            out.seek(0)
            err.seek(0)
            said = err.read().decode()
            assert told, f"manage.py {' '.join(arguments)} died:\n{said}"
            return subprocess.CompletedProcess(["manage.py", *arguments], int(told), out.read().decode(), said)

    def close(self) -> None:
        """Nothing that uses it may be under way."""
        if self._end is not None:
            self._end()
        self._calls = self._end = None

    def _server(self) -> socket.socket:
        with self._starting:
            if self._calls is None:
                self._calls, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    process = warm_python.start(
                        "tests.e2e.warm_commands", (), environment=self._environment, out=1, err=2, stdin=theirs
                    )
                self._end = weakref.finalize(self, _end, self._calls, process)
            return self._calls


def _end(calls: socket.socket, process: Started) -> None:
    calls.close()
    process.wait(STOP_TIMEOUT_S)


def serve(calls: socket.socket) -> None:
    """Fork for every call until nobody is left to call."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    while True:
        call, descriptors, _, _ = socket.recv_fds(calls, _LONGEST_CALL, 3)
        if not call:
            return
        if os.fork() == 0:
            calls.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(json.loads(call), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _answer(call: dict[str, Any], answer: int, out: int, err: int) -> None:
    """Does not return."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    code = 1
    try:
        code = _run(call)
    finally:
        if (raised := sys.exception()) is not None:
            traceback.print_exception(raised)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(answer, str(code).encode())
        os._exit(code)


def _run(call: dict[str, Any]) -> int:
    import manage

    os.environ.update(call["environment"])
    sys.argv = ["manage.py", *call["arguments"]]
    try:
        manage.main()
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
            return 1
        return int(exit_.code or 0)
    return 0


def load() -> None:
    """What nearly every command needs, so that its own process finds it loaded."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    django.setup()
    for module in ("gateway.urls", "gateway.declaration", "billing.export"):
        importlib.import_module(module)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # as with `python -W ignore`
    calls_ = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 0)
    load()
    serve(calls_)
