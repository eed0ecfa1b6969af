"""Rounds of the same scenarios against each server in turn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import processes
from bench.installation import Books, Installation, expected_books
from bench.load import Job, Result
from bench.processes import LoadProcess
from bench.servers import Server

SETTLING_S = 0.1  # what an answered request leaves to be written is written by then, and counted
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """How much is sent: ``rounds`` of so many requests and streams each. ``chunks`` are the content chunks of one
    stream."""

    rounds: int
    requests: int
    requests_alone: int
    burst_streams: int
    paced_streams: int
    chunks: int

    @classmethod
    def of(cls, requests: int | None, *, quick: bool) -> "Volume":
        """``requests``: non-streamed ones at 32 connections, in all rounds together."""
        if quick:
            return cls._divided(requests or 400, rounds=1, burst_streams=20, paced_streams=20, chunks=50)
        return cls._divided(requests or 6000, rounds=6, burst_streams=150, paced_streams=100, chunks=200)

    @classmethod
    def _divided(cls, requests: int, *, rounds: int, **streams: int) -> "Volume":
        each = max(1, requests // rounds)
        return cls(rounds=rounds, requests=each, requests_alone=max(1, each // 4), **streams)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. ``suffix`` ends the names of the rows it fills in; a stream's CPU counts by content chunk."""

    suffix: str
    model: str
    connections: int
    requests: int
    chunks: int = 0
    scales: bool = True  # fewer requests do for a slow server

    def job(self, server: Server) -> Job:
        requests = max(1, round(self.requests * server.share)) if self.scales else self.requests
        return Job(server.port, server.token, self.model, min(self.connections, requests), requests, self.chunks)


PAIRS = 16  # a round, of routed requests and others
SHORT = 8  # so many times fewer requests than other runs have: a machine's pace changes less meanwhile


def scenarios(volume: Volume) -> tuple[Scenario, ...]:
    """What every server is sent in a round."""
    return (
        Scenario("1", "fixed", 1, volume.requests_alone),
        Scenario("32", "fixed", 32, volume.requests),
        Scenario("chunk_burst", "burst", 8, volume.burst_streams, volume.chunks),
        Scenario("chunk_paced", "paced", volume.paced_streams, volume.paced_streams, volume.chunks, scales=False),
    )


def routed_and_named(volume: Volume) -> list[Scenario]:
    """What only a gateway understands, one right after the other: the difference is a tenth of what either takes, less
    than what a machine's pace changes within a minute. Who goes first has no advantage."""
    requests = max(1, volume.requests // SHORT)
    pair = [Scenario("routed", "auto", 32, requests), Scenario("named", "fixed", 32, requests)]
    return [scenario for number in range(PAIRS) for scenario in (pair if number % 2 else reversed(pair))]


class Measurement:
    """Everything that is measured of some servers, round by round.

    ``values`` has, by server and row, one number per round. CPU and latency rows are named in :mod:`bench.report`.
    """

    def __init__(self, load: LoadProcess, volume: Volume, installation: Installation, *, routed: bool = False) -> None:
        self._load, self._volume, self._installation, self._routed = load, volume, installation, routed
        self._whole_answers = self._streams = 0
        self.values: dict[str, dict[str, list[float]]] = {}

    def start(self, server: Server, cores: frozenset[int]) -> None:
        server.start(cores, self._load)
        self._whole_answers += server.keeps_books
        self.values[server.name] = {"start_s": [server.start_s]}

    def run(self, servers: Sequence[Server]) -> None:
        """All rounds: in each every scenario on every server in turn, so that a noisy second hits all alike."""
        for server in servers:
            self._warm_up(server)
        for _ in range(self._volume.rounds):
            for scenario in scenarios(self._volume):
                for server in servers:
                    self._measure(server, scenario)
            if self._routed:
                for server in servers:
                    self._measure_routing(server)
        for server in servers:
            self.values[server.name]["rss_mib"] = [processes.rss_bytes(server.pid) / MIB]

    def expected_books(self) -> Books:
        """What the ledger must hold of everything that was sent to servers that keep one."""
        return expected_books(self._whole_answers, self._streams, self._volume.chunks)

    def _warm_up(self, server: Server) -> None:
        """Until a server has seen every kind of request a number of times it is slower than it will ever be again."""
        for model, chunks, requests in (
            ("fixed", 0, max(32, self._volume.requests)),
            ("burst", self._volume.chunks, 16),
        ):
            self._send(server, Scenario("", model, 32, requests, chunks).job(server))

    def _measure_routing(self, server: Server) -> None:
        if server.keeps_books:
            for scenario in routed_and_named(self._volume):
                self._measure(server, scenario)

    def _measure(self, server: Server, scenario: Scenario) -> None:
        job = scenario.job(server)
        # Opens the connections to the vendor, which idle since the last round have been closed.
        self._send(server, Scenario("", "fixed", job.connections, 2 * job.connections, scales=False).job(server))
        watched = self._watched(server)
        before = {row: processes.cpu_s(pid) for row, pid in watched.items()}
        result = self._send(server, job)
        counted = job.requests * (job.chunks or 1)
        for row, pid in watched.items():
            cpu_us = (processes.cpu_s(pid) - before[row]) / counted * 1e6
            self._note(server, f"{row}_{scenario.suffix}", cpu_us)
        if not job.chunks:
            self._note(server, f"rps_{scenario.suffix}", job.requests / result.seconds)
            self._note(server, f"p50_ms_{scenario.suffix}", result.p50_ms)
            self._note(server, f"p99_ms_{scenario.suffix}", result.p99_ms)

    def _send(self, server: Server, job: Job) -> Result:
        """Runs a job and waits for what it leaves to be written. Raises BenchError."""
        result = self._load.run(job)
        time.sleep(SETTLING_S)
        if server.keeps_books and job.chunks:
            self._streams += job.requests
        elif server.keeps_books:
            self._whole_answers += job.requests
        return result

    def _watched(self, server: Server) -> dict[str, int]:
        """Process trees whose CPU is read, by row."""
        if not server.keeps_books:
            return {"cpu_us": server.pid}
        return {
            "cpu_us": server.pid,
            "postgres_cpu_us": self._installation.postgres_pid,
            "redis_cpu_us": self._installation.redis_pid,
        }

    def _note(self, server: Server, row: str, value: float) -> None:
        self.values[server.name].setdefault(row, []).append(value)
