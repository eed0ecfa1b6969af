"""A real gateway on loopback for black-box tests: its own process, its own database."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.e2e.warm_commands import WarmCommands
from tests.provision import ROOT, Database
from tests.warm_python import Started, warm_python

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 60.0


class GatewayProcess:
    """``with GatewayProcess(database, folder) as gateway``: serves until the block ends.

    ``cold=True`` starts Python anew for it, for tests that look at the process itself: its memory, say.

    Attributes:
        url: the address without a path (OpenAI clients: ``url + "/v1"``).
        environment: what every command line that works on this gateway's data is started with.
    """

    def __init__(self, database: Database, folder: Path, *, cold: bool = False, **settings: str) -> None:
        self.port = _free_port()
        self._folder = folder
        self._cold = cold
        self.environment = {
            **os.environ,
            **database.environment(),
            "DATA_DIR": str(folder),
            "ALLOWED_UPSTREAMS": "127.0.0.1/32",
            "IP_RATE_LIMIT": "0",
            "DRAIN_S": "5",
            "LOG_LEVEL": "WARNING",
            "PORT": str(self.port),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | Started | None = None
        self._commands = WarmCommands(self.environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What it wrote to its log so far."""
        return (self._folder / "server.log").read_text()

    def manage(self, *arguments: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a management command on this gateway's data. ``extra`` is what a command itself reads of its environment:
        settings are read before. Raises CalledProcessError."""
        done = self._commands.run(*arguments, timeout_s=COMMAND_TIMEOUT_S, **extra)
        if check:
            done.check_returncode()
        return done

    def apply(self, declaration: str, **secrets: str) -> None:
        path = self._folder / "declaration.yaml"
        path.write_text(declaration)
        done = self.manage("apply", str(path), check=False, **secrets)
        assert done.returncode == 0, done.stderr

    def ledger(self, **filters: str) -> list[dict[str, Any]]:
        """The exported ledger lines, oldest first, once every one of ``filters`` matches."""
        lines = [json.loads(line) for line in self.manage("export_ledger").stdout.splitlines()]
        return [line for line in lines if all(line[key] == value for key, value in filters.items())]

    def line_of(self, request_id: str, timeout_s: float = 5.0) -> list[dict[str, Any]]:
        """The lines of one request, as soon as all of them have a final state."""
        deadline = time.monotonic() + timeout_s
        while True:
            lines = self.ledger(request_id=request_id)
            if (lines and all(line["state"] != "open" for line in lines)) or time.monotonic() > deadline:
                return lines
            time.sleep(0.05)

    def start(self) -> None:
        arguments = [
            "gateway.asgi:application", "--host", "127.0.0.1", "--port", str(self.port), "--loop", "uvloop",
            "--http", "gateway.connections:CallerConnection", "--lifespan", "on", "--no-proxy-headers",
            "--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "5",
        ]  # fmt: skip
        with (self._folder / "server.log").open("ab") as log:
            if self._cold:
                command = [sys.executable, "-m", "uvicorn", *arguments]
                self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
            else:
                self._process = warm_python.start("uvicorn", arguments, environment=self.environment, out=log, err=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"the gateway did not start:\n{self.output}")

    def stop(self) -> None:
        """SIGTERM, and wait: what it drains and settles is done then."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._commands.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
