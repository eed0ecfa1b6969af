"""Child processes on cores of their own: started, measured and ended by their process id."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import msgspec
import psutil

from bench.load import Job, Result

ROOT = Path(__file__).resolve().parent.parent
STOP_TIMEOUT_S = 40.0


class BenchError(RuntimeError):
    """The benchmark cannot go on, or what it measured was wrong; one line says why."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the server that is measured, the rest for everything else: vendor, load generator, databases.

    Empty sets where there is nothing to divide: then nothing is pinned.
    """

    server: frozenset[int] = frozenset()
    rest: frozenset[int] = frozenset()

    @classmethod
    def divided(cls) -> Self:
        usable = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        return cls(frozenset(usable[:1]), frozenset(usable[1:])) if len(usable) > 1 else cls()


def pin(cores: frozenset[int]) -> None:
    """Keep this process, and what it starts from now on, on ``cores``."""
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)


def start(
    command: Sequence[str],
    *,
    cores: frozenset[int],
    environment: Mapping[str, str],
    output: IO[bytes] | int,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start ``command`` in the project's root, on ``cores``.

    ``output`` takes what it prints; its errors too, unless that is a pipe.
    """
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=stdin,
        stdout=output,
        stderr=None if output == subprocess.PIPE else output,
        preexec_fn=lambda: pin(cores),  # noqa: PLW1509 - this process has no threads
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and make it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that the process and all its descendants have used so far, ended ones included."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            own = times.user + times.system if _clock_of is None else time.clock_gettime(_clock_of(process.pid))
            total += own + times.children_user + times.children_system
    return total


def _linux_clock_of(pid: int) -> int:
    """The kernel's CPU clock of a process, all threads: nanoseconds, where psutil's figure has ticks of 10 ms."""
    return (~pid << 3) | 2  # as clock_getcpuclockid(3) makes it


_clock_of = _linux_clock_of if sys.platform == "linux" else None


def rss_bytes(pid: int) -> int:
    """Resident memory of the process and all its descendants."""
    total = 0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


class VendorProcess:
    """The fixed-response vendor, in its own process."""

    def __init__(self, cores: frozenset[int], chunks: int) -> None:
        command = [sys.executable, "-m", "bench.vendor", "--chunks", str(chunks)]
        self._process = start(command, cores=cores, environment=os.environ, output=subprocess.PIPE)
        assert self._process.stdout is not None
        self.base_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"

    def stop(self) -> None:
        stop(self._process)


class LoadProcess:
    """The load generator, in its own process: it waits for jobs, so that its start is part of no measurement."""

    def __init__(self, cores: frozenset[int]) -> None:
        command = [sys.executable, "-m", "bench.load"]
        self._process = start(
            command, cores=cores, environment=os.environ, output=subprocess.PIPE, stdin=subprocess.PIPE,
        )  # fmt: skip

    def run(self, job: Job) -> Result:
        """Raises BenchError for a wrong answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("The load generator ended.")
        result = msgspec.json.decode(line, type=Result)
        if result.error:
            raise BenchError(f"A wrong answer: {result.error}")
        return result

    def stop(self) -> None:
        stop(self._process)
