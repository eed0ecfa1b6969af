"""Runs the scripted vendors for a test or a benchmark: in a thread of its own, or in a process of its own."""

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gateway.conformance.vendors.log import LoggedCall
from gateway.conformance.vendors.server import MODELS, Vendors, serve

_ROOT = Path(__file__).resolve().parents[3]
_START_TIMEOUT_S = 20


class VendorServer:
    """Scripted vendors on a free loopback port, as a context manager.

    By default they run in a thread with its own event loop. ``process=True`` starts them as a process, so that they
    share no interpreter lock with what is measured; it ends with its parent, however that ends.

    Attributes:
        url: the address without a path, as Anthropic and Ollama clients take it (OpenAI: ``url + "/v1"``).
        log: every request since the start or the last reset, oldest first; a fresh copy each time.
    """

    def __init__(
        self, keys: Iterable[str] | None = None, models: Sequence[str] = MODELS, *, process: bool = False
    ) -> None:
        self._keys = None if keys is None else list(keys)
        self._models = models
        self._in_process = process
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> list[LoggedCall]:
        return [LoggedCall.from_json(call) for call in self._ask("GET", "/_log")["calls"]]

    @property
    def open_connections(self) -> int:
        """Connections held open by clients, idle ones included."""
        return int(self._ask("GET", "/_log?model=-")["open_connections"])

    @property
    def pid(self) -> int | None:
        """The process's id (None when the vendors run in a thread)."""
        return self._process.pid if self._process else None

    def reset(self) -> None:
        """Forgets the log, the scripts and which models were called already."""
        self._ask("POST", "/_control", {"reset": True})

    def script(self, model: str, behaviours: Iterable[str]) -> None:
        """Queues behaviours ("500", "tok3-gap20", "ok") for the next calls of ``model``. Raises ValueError."""
        self._ask("POST", "/_control", {"script": {"model": model, "behaviours": list(behaviours)}})

    def accept_keys(self, keys: Iterable[str] | None) -> None:
        """From now on only these keys are right; None: any is."""
        self._ask("POST", "/_control", {"keys": None if keys is None else list(keys)})

    def wait_for(self, holds: Callable[[list[LoggedCall]], bool], timeout_s: float = 2.0) -> list[LoggedCall]:
        """The log as soon as ``holds`` is true of it. Raises TimeoutError with the log's end."""
        deadline = time.monotonic() + timeout_s
        while not holds(log := self.log):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not seen within {timeout_s} s; last calls: {log[-3:]}")
            time.sleep(0.01)
        return log

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"])
        return answer

    # ----------------------------------------------------------------- life

    def __enter__(self) -> Self:
        if self._in_process:
            self._start_process()
        else:
            self._start_thread()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.communicate(timeout=_START_TIMEOUT_S)  # closes its stdin, which ends it
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(_START_TIMEOUT_S)

    def _start_process(self) -> None:
        command = [sys.executable, "-m", "gateway.conformance.vendors", "--port", "0", "--until-stdin-closes"]
        command += [f"--model={model}" for model in self._models]
        command += [f"--key={key}" for key in self._keys or []]
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the scripted vendors did not start")
        self.port = int(line.rpartition(":")[2])

    def _start_thread(self) -> None:
        started = threading.Event()

        def ready(port: int) -> None:
            self.port = port
            started.set()

        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await serve(Vendors(self._keys, self._models), "127.0.0.1", 0, ready, self._stop)

        self._thread = threading.Thread(target=asyncio.run, args=(run(),), name="vendors", daemon=True)
        self._thread.start()
        if not started.wait(_START_TIMEOUT_S):
            raise RuntimeError("the scripted vendors did not start")
