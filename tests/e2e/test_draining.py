"""A deploy: SIGTERM while streams are under way."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import START_TIMEOUT_S, GatewayProcess
from tests.e2e.slow_reader import BareCaller, seconds_until
from tests.provision import ROOT

TOKEN = "drain-token-0123456789-abcdefg"
USER = [{"role": "user", "content": "hi"}]
STREAMS = 100
FINAL = ("settled", "cancelled", "failed")
DIALECTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/messages": {"messages": USER, "max_tokens": 1000},
    "/v1/responses": {"input": "hi"},
}
DECLARATION = """
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers:
      - {{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}
      - {{name: patient, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-p", on_disconnect: drain}}
    models:
      - {{name: unattended, provider: patient, vendor_model: m-tok600-gap100, price: {{input: 1, output: 2}}}}
      - {{name: five-seconds, provider: lab, vendor_model: m-tok50-gap100, price: {{input: 1, output: 2}}}}
      - {{name: a-minute, provider: lab, vendor_model: m-tok600-gap100, price: {{input: 1, output: 2}}}}
    tokens:
      - {{name: ci, project: web, value: {{env: DRAIN_TOKEN}}}}
"""


class ServedGateway(GatewayProcess):
    """As a deployment starts it: ``manage.py serve``, which takes ``DRAIN_S`` to the server."""

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            command = [sys.executable, "-W", "ignore", "manage.py", "serve"]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        seconds_until(self._is_ready, START_TIMEOUT_S)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.output
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def refuses_connections(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) != 0

    def exit_code(self, timeout_s: float) -> int:
        """Raises subprocess.TimeoutExpired when it does not end."""
        assert self._process is not None
        return self._process.wait(timeout_s)


@pytest.fixture(scope="module")
def vendor() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@contextmanager
def served(vendor: VendorServer, folder: Path, drain_s: float) -> Iterator[ServedGateway]:
    database = provision.create_database(f"{provision.PREFIX}_{folder.name.replace('-', '_')}_{os.getpid()}")
    gateway = ServedGateway(database, folder, DRAIN_S=str(drain_s))
    gateway.apply(DECLARATION.format(url=vendor.url), DRAIN_TOKEN=TOKEN)
    with gateway:
        yield gateway
    provision.drop_database(database.name)


@dataclass
class Stream:
    """What one caller has read. ``cut``: the connection broke before the answer's end."""

    path: str
    request_id: str = ""
    events: list[str] = field(default_factory=list)
    cut: bool = False
    ended_at: float = 0.0

    @property
    def text(self) -> str:
        chunks = [json.loads(event) for event in self.events if event != "[DONE]"]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def read(http: httpx.AsyncClient, path: str, model: str, begun: asyncio.Semaphore) -> Stream:
    stream = Stream(path)
    body = {"model": model, "stream": True, **DIALECTS[path]}
    try:
        async with http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200
            stream.request_id = answer.headers["x-request-id"]
            begun.release()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    stream.events.append(line.removeprefix("data: "))
    except httpx.TransportError:
        stream.cut = True
    stream.ended_at = time.monotonic()
    return stream


async def read_through_a_deploy(gateway: ServedGateway, paths: list[str], model: str) -> tuple[list[Stream], float]:
    """Streams of which all have begun when the gateway is told to stop, and when that was."""
    begun = asyncio.Semaphore(0)
    async with httpx.AsyncClient(
        base_url=gateway.url,
        headers={"authorization": f"Bearer {TOKEN}"},
        limits=httpx.Limits(max_connections=None),
        timeout=30,
    ) as http:
        reading = [asyncio.create_task(read(http, path, model, begun)) for path in paths]
        async with asyncio.timeout(20):
            for _ in paths:
                await begun.acquire()
        gateway.terminate()
        told_at = time.monotonic()
        await asyncio.to_thread(seconds_until, gateway.refuses_connections, 2)
        assert not any(task.done() for task in reading)
        return await asyncio.gather(*reading), told_at


def test_no_stream_that_fits_the_drain_is_cut_by_a_deploy(vendor: VendorServer, tmp_path: Path) -> None:
    with served(vendor, tmp_path, drain_s=20) as gateway:
        streams, told_at = asyncio.run(
            read_through_a_deploy(gateway, ["/v1/chat/completions"] * STREAMS, "five-seconds")
        )
        last = max(stream.ended_at for stream in streams)
        gateway.exit_code(timeout_s=5)
        print(
            f"told to stop; last stream ended after {last - told_at:.1f} s, the process {time.monotonic() - last:.1f} s later"
        )
        whole = " ".join(f"tok{number}" for number in range(1, 51))
        assert [stream.cut for stream in streams] == [False] * STREAMS
        assert {(stream.text, stream.events[-1]) for stream in streams} == {(whole, "[DONE]")}

        lines = gateway.ledger()
        assert {line["request_id"] for line in lines} == {stream.request_id for stream in streams}
        assert len(lines) == STREAMS
        assert {(line["state"], line["estimated"], line["output_tokens"]) for line in lines} == {("settled", False, 50)}
        assert "Traceback" not in gateway.output


@pytest.fixture(scope="module")
def outlasted(
    vendor: VendorServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServedGateway, list[Stream], float, int]]:
    """A gateway that has ended under streams, one of each dialect, that would have taken a minute. A fourth was read to
    its end although its caller had left."""
    vendor.reset()
    with served(vendor, tmp_path_factory.mktemp("outlasted"), drain_s=1) as gateway:
        with BareCaller(gateway, TOKEN) as leaving:
            leaving.ask({"model": "unattended", "messages": USER, "stream": True})
            vendor.wait_for(lambda log: bool(log) and log[-1].sent_tokens > 0, timeout_s=10)
        streams, told_at = asyncio.run(read_through_a_deploy(gateway, list(DIALECTS), "a-minute"))
        code = gateway.exit_code(timeout_s=10)
        yield gateway, streams, time.monotonic() - told_at, code


Outlasted = tuple[ServedGateway, list[Stream], float, int]


def test_the_process_ends_soon_after_its_drain_and_settles_what_it_cut(outlasted: Outlasted) -> None:
    gateway, streams, seconds, _ = outlasted
    print(f"ended {seconds:.1f} s after SIGTERM with a drain of 1 s")
    assert seconds <= 5
    assert not any("[DONE]" in stream.events for stream in streams)
    lines = [line for line in gateway.ledger() if line["model"] == "a-minute"]
    assert {line["request_id"] for line in lines} == {stream.request_id for stream in streams}
    assert all(line["state"] in FINAL for line in lines)
    assert all(line["estimated"] and line["output_tokens"] > 0 for line in lines)


def test_an_answer_nobody_waits_for_is_settled_when_it_outlasts_the_drain(outlasted: Outlasted) -> None:
    (line,) = (line for line in outlasted[0].ledger() if line["model"] == "unattended")
    assert line["state"] in FINAL
    assert line["estimated"]


@pytest.mark.parametrize("path", DIALECTS)
def test_a_stream_that_outlasts_the_drain_ends_in_its_dialects_error(outlasted: Outlasted, path: str) -> None:
    _, streams, _, _ = outlasted
    (stream,) = (stream for stream in streams if stream.path == path)
    assert not stream.cut
    last = json.loads(stream.events[-1])
    match path:
        case "/v1/chat/completions":
            assert last["error"]["code"]
        case "/v1/messages":
            assert (last["type"], "type" in last["error"]) == ("error", True)
        case _:
            assert last["type"] in ("error", "response.failed")


def test_a_gateway_that_was_told_to_stop_exits_with_zero(outlasted: Outlasted) -> None:
    assert outlasted[-1] == 0


def test_what_is_cut_by_a_deploy_is_not_reported_as_a_bug(outlasted: Outlasted) -> None:
    assert "Traceback" not in outlasted[0].output
