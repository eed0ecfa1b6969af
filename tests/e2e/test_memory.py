"""Memory is bounded by configuration, and not by what callers and vendors do."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.slow_reader import (
    SMALL_BUFFER_BYTES,
    BareCaller,
    EndlessVendor,
    open_streams_of,
    seconds_until,
    sockets_of,
)

TOKEN = "memory-token-0123456789-abcdef"
USER = [{"role": "user", "content": "hi"}]
MIB = 1024 * 1024
READERS = 200
STALLED_WRITE_S = 5.0
MAX_BODY_BYTES = 2 * MIB
NEARLY_TOO_LONG_CHARS = 680_000  # in one event, of which 768 KiB are allowed
DECLARATION = """
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers:
      - {{name: lab, kind: openai-compatible, base_url: "{scripted}/v1", api_key: "sk-lab"}}
      - {{name: endless, kind: openai-compatible, base_url: "{endless}/v1", api_key: "sk-e"}}
      - {{name: coarse, kind: openai-compatible, base_url: "{coarse}/v1", api_key: "sk-c"}}
    models:
      - {{name: short, provider: lab, vendor_model: short-tok8, price: {{input: 1, output: 2}}}}
      - {{name: giant, provider: lab, vendor_model: m-giant, price: {{input: 1, output: 2}}}}
      - {{name: huge, provider: lab, vendor_model: m-toklong34000, price: {{input: 1, output: 2}}}}
      - {{name: endless, provider: endless, vendor_model: endless, price: {{input: 1, output: 2}}}}
      - {{name: coarse, provider: coarse, vendor_model: coarse, price: {{input: 1, output: 2}}}}
    tokens:
      - {{name: ci, project: web, value: {{env: MEMORY_TOKEN}}}}
"""


@pytest.fixture(scope="module")
def endless() -> Iterator[EndlessVendor]:
    with EndlessVendor() as server:
        yield server


@pytest.fixture(scope="module")
def coarse() -> Iterator[EndlessVendor]:
    with EndlessVendor(NEARLY_TOO_LONG_CHARS) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    endless: EndlessVendor, coarse: EndlessVendor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_memory_{os.getpid()}")
    running = GatewayProcess(
        database,
        tmp_path_factory.mktemp("memory"),
        cold=True,
        STALLED_WRITE_S=str(STALLED_WRITE_S),
        MAX_BODY_BYTES=str(MAX_BODY_BYTES),
    )
    with VendorServer(process=True) as scripted:
        declaration = DECLARATION.format(scripted=scripted.url, endless=endless.url, coarse=coarse.url)
        running.apply(declaration, MEMORY_TOKEN=TOKEN)
        with running:
            assert ask(running, "short").status_code == 200
            yield running
    provision.drop_database(database.name)


def ask(gateway: GatewayProcess, model: str, *, stream: bool = False) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json={"model": model, "messages": USER, "stream": stream},
        headers={"authorization": f"Bearer {TOKEN}"},
        timeout=20,
    )


class Grown:
    """By how many bytes the gateway has grown at most since this was made."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._process = psutil.Process(gateway.pid)
        self._base = self._process.memory_info().rss
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self.most = 0

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0.02)
            self.most = max(self.most, self._process.memory_info().rss - self._base)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._watching.start()
        try:
            yield
        finally:
            self._over.set()
            self._watching.join()


# ----------------------------------------------------------------- what is larger than allowed


def test_a_giant_event_is_cut_at_its_limit(gateway: GatewayProcess) -> None:
    grown = Grown(gateway)
    with grown.watching():
        answer = ask(gateway, "giant", stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_error")
    print(f"{grown.most / MIB:.1f} MiB for a giant event")
    assert grown.most <= 10 * MIB  # of 20


def test_a_giant_answer_is_cut_at_its_limit(gateway: GatewayProcess) -> None:
    answer = ask(gateway, "huge")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_error")


@pytest.mark.parametrize("announced", [True, False])
def test_a_giant_body_is_refused_as_soon_as_it_is_too_large(gateway: GatewayProcess, announced: bool) -> None:
    grown = Grown(gateway)
    block = b"x" * 65536
    framed = block if announced else b"10000\r\n" + block + b"\r\n"
    with grown.watching(), BareCaller(gateway, TOKEN) as caller:
        caller.send_head(**({"content_length": str(100 * MIB)} if announced else {"transfer_encoding": "chunked"}))
        sending = threading.Thread(target=send_for_ever, args=(caller, framed), daemon=True)
        sending.start()
        answer = caller.read_answer(10)
    sending.join(10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    print(f"{grown.most / MIB:.1f} MiB for a giant body")
    assert grown.most <= 4 * MAX_BODY_BYTES


def send_for_ever(caller: BareCaller, block: bytes) -> None:
    with suppress(OSError):
        while True:
            caller.send(block)


# ----------------------------------------------------------------- callers that do not read


@contextmanager
def stalled_readers(gateway: GatewayProcess, model: str, number: int) -> Iterator[list[BareCaller]]:
    """Callers who have asked for a stream and do not read it."""
    callers: list[BareCaller] = []
    try:
        for _ in range(number):
            callers.append(BareCaller(gateway, TOKEN, receive_buffer_bytes=SMALL_BUFFER_BYTES))
            callers[-1].ask({"model": model, "messages": USER, "stream": True})
        yield callers
    finally:
        for caller in callers:
            caller.close()


def stands_still(vendor: EndlessVendor, streams: int) -> bool:
    """Whether the vendor has ``streams`` open and got rid of nothing for half a second."""
    before = sum(vendor.sent)
    time.sleep(0.5)
    return len(vendor.sent) == streams and sum(vendor.sent) == before


def test_two_hundred_stalled_readers_are_bounded_slow_their_vendor_and_end(
    gateway: GatewayProcess, endless: EndlessVendor
) -> None:
    base_sockets = sockets_of(gateway)
    grown = Grown(gateway)
    with grown.watching(), stalled_readers(gateway, "endless", READERS) as callers:
        seconds_until(lambda: stands_still(endless, READERS), timeout_s=30)
        assert ask(gateway, "short").status_code == 200
        ended_s = seconds_until(lambda: open_streams_of(gateway) == 0, timeout_s=30)
        seconds_until(lambda: sockets_of(gateway) <= base_sockets + 1, timeout_s=5)  # one is kept for reuse
        left = callers[0].read_until_closed(5)
        assert b"[DONE]" not in left
    print(f"{grown.most / MIB:.0f} MiB for {READERS} stalled readers; all ended {ended_s:.1f} s after they stood still")
    assert grown.most <= 200 * MIB

    lines = [line for line in gateway.ledger() if line["model"] == "endless"]
    assert len(lines) == READERS
    assert {(line["state"], line["estimated"]) for line in lines} == {("cancelled", True)}
    assert all(line["output_tokens"] > 0 for line in lines)


def test_a_stalled_reader_costs_no_more_than_a_mebibyte_however_coarse_the_events(
    gateway: GatewayProcess, coarse: EndlessVendor
) -> None:
    readers = 50
    grown = Grown(gateway)
    with grown.watching(), stalled_readers(gateway, "coarse", readers):
        seconds_until(lambda: stands_still(coarse, readers), timeout_s=30)
    print(f"{grown.most / MIB / readers:.2f} MiB a reader")
    seconds_until(lambda: open_streams_of(gateway) == 0, timeout_s=10)
    assert grown.most <= readers * MIB
