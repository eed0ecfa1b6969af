"""`manage.py up`: what dies under it is started again, and what does not stay up ends it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.supervisor import PAUSES_S, STEADY_S, Kept, SupervisorError
from tests.provision import ROOT

START_TIMEOUT_S = 120.0
MENDED_WITHIN_S = 60.0


class Up:
    """A running `manage.py up` with servers of its own."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "var"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._output = folder / "up.log"
        self.environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")} | {
            "DATA_DIR": str(self.data_dir), "PORT": str(port), "DRAIN_S": "2", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "manage.py", "up"],
                cwd=ROOT, env=self.environment, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, what: Callable[[], object], within_s: float = MENDED_WITHIN_S) -> None:
        deadline = time.monotonic() + within_s
        while not what():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether the demo model does, by a call that is written down and looked up in Redis' limits."""
        token = (self.data_dir / "demo-token").read_text().strip()
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}
        try:
            answer = httpx.post(
                f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {token}"}, timeout=10
            )
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and "x-gateway-degraded" not in answer.headers

    def pid_of(self, *words: str) -> int:
        """Of the one child with these words in its command line; 0 when there is none."""
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # killed, and not yet noticed
                line = child.cmdline()
                if all(word in line for word in words):
                    return child.pid
        return 0

    def postgres(self) -> int:
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])

    def redis(self) -> int:
        return int((self.data_dir / "run" / "redis.pid").read_text())

    def ledger(self) -> list[dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", "export_ledger"],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    try:
        running.wait_for(lambda: "Ctrl-C or" in running.output, START_TIMEOUT_S)
        yield running
    finally:
        running.process.terminate()
        try:
            code = running.process.wait(60)
        except subprocess.TimeoutExpired:
            running.process.kill()
            raise
    assert code == 0, running.output


def test_what_is_killed_under_a_running_gateway_is_started_again_and_nothing_is_lost(up: Up) -> None:
    up.wait_for(up.answers)
    for pid in (up.postgres(), up.redis()):
        os.kill(pid, signal.SIGKILL)
    up.wait_for(lambda: "Redis died" in up.output and "PostgreSQL died" in up.output)
    up.wait_for(up.answers)
    lines = up.ledger()
    assert len(lines) >= 2
    assert {line["model"] for line in lines} == {"demo"}

    for name, words in (("the scheduler", ("celery", "beat")), ("the worker", ("celery", "worker"))):
        before = up.pid_of(*words)
        os.kill(before, signal.SIGKILL)
        up.wait_for(lambda before=before, words=words: up.pid_of(*words) not in (0, before))  # type: ignore[misc]
        assert f"{name} was killed by signal 9; started again in 0.5 s (1 of 5); see " in up.output

    server = up.pid_of("gateway.server")
    os.kill(server, signal.SIGKILL)
    up.wait_for(up.answers)
    assert up.pid_of("gateway.server") not in (0, server)
    assert "Traceback" not in up.output


def watched(*, mended_by: int) -> tuple[Kept, list[float]]:
    """A thing that runs from its ``mended_by``-th start on, and the times of its starts by a clock of whole steps."""
    starts: list[float] = []

    def how_it_ended() -> str | None:
        return None if len(starts) >= mended_by else "ended with exit code 3"

    return Kept("the worker", "worker.log", how_it_ended, lambda: starts.append(0.0)), starts


def look_often(kept: Kept, *, for_s: float) -> None:
    now = time.monotonic()
    for step in range(int(for_s * 10)):
        kept.look(now + step / 10)


def test_what_stays_up_at_last_is_left_alone() -> None:
    kept, starts = watched(mended_by=3)
    look_often(kept, for_s=STEADY_S * 3)
    assert len(starts) == kept.restarts == 3


def test_what_does_not_stay_up_is_given_up_after_some_pauses_and_named() -> None:
    kept, starts = watched(mended_by=100)
    with pytest.raises(SupervisorError) as given_up:
        look_often(kept, for_s=STEADY_S)
    assert str(given_up.value) == (
        f"the worker ended with exit code 3, {len(PAUSES_S)} restarts did not help; see worker.log."
    )
    assert len(starts) == len(PAUSES_S)
