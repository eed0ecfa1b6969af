"""What is compared: servers that answer the same requests from the same vendor, each started the same way."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes
from bench.installation import MODELS, TOKEN, Installation
from bench.load import Job
from bench.processes import ROOT, BenchError, LoadProcess

START_TIMEOUT_S = 120.0
POLL_S = 0.005
LITELLM = Path(__file__).resolve().parent / ".litellm"


@dataclass(slots=True)
class Server:
    """A column of the report.

    ``command`` has ``{port}`` where the port goes. ``share`` of the usual number of requests is sent where a server
    takes long. ``keeps_books``: its requests are in the ledger. ``start_s`` is the time from its start to its first
    answer.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    share: float = 1.0
    keeps_books: bool = False
    token: str = TOKEN
    port: int = 0
    start_s: float = 0.0
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, cores: frozenset[int], load: LoadProcess) -> None:
        """Returns once a first request has been answered. Raises BenchError."""
        self.port = _free_port()
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        environment = {**self.environment, "PORT": str(self.port)}
        started_at = time.perf_counter()
        with self.log.open("wb") as log:
            self._process = processes.start(command, cores=cores, environment=environment, output=log)
        self._wait_until_listening(started_at + START_TIMEOUT_S)
        load.run(Job(self.port, self.token, "fixed", connections=1, requests=1))
        self.start_s = time.perf_counter() - started_at

    def stop(self) -> None:
        if self._process is not None:
            processes.stop(self._process)

    def _wait_until_listening(self, deadline: float) -> None:
        assert self._process is not None
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if self._process.poll() is not None or time.perf_counter() > deadline:
                    raise BenchError(f"{self.name} does not start:\n{self.log.read_text()[-2000:]}") from None
                time.sleep(POLL_S)


def bare(vendor_url: str, logs: Path) -> Server:
    environment = {**os.environ, "BENCH_VENDOR": vendor_url}
    return Server("bare", _uvicorn("bench.bare:application"), environment, logs / "bare.log")


def gateway(installation: Installation, logs: Path) -> Server:
    command = (sys.executable, "manage.py", "serve")
    return Server("gateway", command, installation.environment, logs / "gateway.log", keeps_books=True)


def django_view(installation: Installation, logs: Path) -> Server:
    command = _uvicorn("bench.django_view:application")
    return Server("django view", command, installation.environment, logs / "django-view.log", keeps_books=True)


def litellm(vendor_url: str, logs: Path) -> Server:
    """LiteLLM's proxy with a key and nothing else switched on, in an environment of its own. Raises BenchError when
    that cannot be installed."""
    _install_litellm()
    config = logs / "litellm.yaml"
    target = {"api_base": vendor_url, "api_key": "sk-bench"}
    models = [{"model_name": name, "litellm_params": {"model": f"openai/{name}", **target}} for name in MODELS]
    config.write_text(json.dumps({"model_list": models, "litellm_settings": {"telemetry": False}}))  # JSON is YAML too
    command = (str(LITELLM / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", "{port}")
    token = "sk-bench-0123456789"
    environment = {
        **os.environ,
        "LITELLM_MASTER_KEY": token,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it is fetched at every start
        "LITELLM_LOG": "ERROR",
    }
    return Server("litellm", command, environment, logs / "litellm.log", share=0.1, token=token)


def _install_litellm() -> None:
    if (LITELLM / ".installed").exists():
        return
    pip = (str(LITELLM / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for command in ((sys.executable, "-m", "venv", "--clear", str(LITELLM)), (*pip, "litellm[proxy]")):
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise BenchError(f"LiteLLM cannot be installed: {lines[-1]}")
    (LITELLM / ".installed").touch()


def _uvicorn(application: str) -> tuple[str, ...]:
    """The options that ``manage.py serve`` uses, where they make a difference."""
    return (
        sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "{port}", "--workers", "1",
        "--loop", "uvloop", "--http", "gateway.connections:CallerConnection", "--lifespan", "on", "--no-proxy-headers",
        "--no-server-header", "--no-access-log", "--log-level", "warning",
    )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
