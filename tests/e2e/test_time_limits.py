"""Nothing waits for ever: every stage ends at its limit, and leaves nothing open behind it."""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

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

TOKEN = "limits-token-0123456789-abcdef"
USER = [{"role": "user", "content": "hi"}]
LIMIT_S = 1.0  # of each stage of a vendor's call, and of a stalled write
BODY_TIMEOUT_S = 1.2
LATE_S = 1.0  # what a fault may take beyond its limit
BACK_S = 5.0  # until nothing is left of it
LONG_S = 30

# Each stage with the behaviour that breaks its limit; every other limit is far away.
STAGES = {
    "connect": "tok8",
    "first_byte": "silent",
    "first_token": "slowfirst30-pings",
    "between_chunks": "stall5",
    "total": "tok200-gap50",
}
BATCHES = ("alone", "burst1", "burst2")  # models of their own: no circuit opens within ten calls
WHOLE = ("connect", "first_byte", "between_chunks", "total")  # a whole answer has no first token


def declaration(scripted: str, deaf: str, endless: str) -> str:
    lines = ["tenants:", "  - slug: acme", "    projects: [{slug: web}]", "    providers:"]
    for stage in STAGES:
        limits = {other: LIMIT_S if other == stage else LONG_S for other in STAGES}
        told = ", ".join(f"{name}: {seconds}" for name, seconds in limits.items())
        url = deaf if stage == "connect" else scripted
        lines.append(
            f'      - {{name: {stage}, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk", deadlines: {{{told}}}}}'
        )
    lines.append(f'      - {{name: endless, kind: openai-compatible, base_url: "{endless}/v1", api_key: "sk"}}')
    lines.append("    models:")
    price = "price: {input: 1, output: 2}"
    for batch in BATCHES:
        for stage, behaviour in STAGES.items():
            lines.append(
                f"      - {{name: {stage}-{batch}, provider: {stage}, vendor_model: {batch}-{behaviour}, {price}}}"
            )
    lines.append(f"      - {{name: sound, provider: total, vendor_model: m-tok8, {price}}}")
    lines.append(f"      - {{name: endless, provider: endless, vendor_model: endless, {price}}}")
    lines.append("    tokens:\n      - {name: ci, project: web, value: {env: LIMITS_TOKEN}}\n")
    return "\n".join(lines)


@contextmanager
def deaf_address() -> Iterator[str]:
    """An address that answers no connection: somebody listens, and the queue of those not yet accepted is full."""
    with ExitStack() as held:
        listening = held.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_limits_{os.getpid()}")
    running = GatewayProcess(
        database,
        tmp_path_factory.mktemp("limits"),
        STALLED_WRITE_S=str(LIMIT_S),
        BODY_TIMEOUT_S=str(BODY_TIMEOUT_S),
        BREAKER_FAILURES="1000",
    )
    with VendorServer(process=True) as scripted, deaf_address() as deaf, EndlessVendor() as endless:
        running.apply(declaration(scripted.url, deaf, endless.url), LIMITS_TOKEN=TOKEN)
        with running:
            assert Fault(running, "sound").answer.status_code == 200
            yield running
    provision.drop_database(database.name)


class Fault:
    """One call and what came of it. Times in seconds."""

    def __init__(self, gateway: GatewayProcess, model: str, *, stream: bool = False, **extensions: float) -> None:
        started = time.monotonic()
        self.answer = httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": model, "messages": USER, "stream": stream, **extensions},
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=LONG_S,
        )
        self.seconds = time.monotonic() - started

    @property
    def ended_in_an_error(self) -> bool:
        """Told as such: by its status, or where a stream had begun by its last event."""
        if self.answer.status_code == 200:
            return '"error"' in self.answer.text.split("data: ")[-1] and "[DONE]" not in self.answer.text
        return self.answer.status_code == 504 and self.answer.json()["error"]["code"] == "timeout"


CALLS = [*((stage, True) for stage in STAGES), *((stage, False) for stage in WHOLE)]


@pytest.fixture(scope="module")
def faults(gateway: GatewayProcess) -> dict[tuple[str, bool], Fault]:
    """What came of each call, all of them made at once."""
    with ThreadPoolExecutor(len(CALLS)) as callers:
        made = callers.map(lambda call: Fault(gateway, f"{call[0]}-alone", stream=call[1]), CALLS)
        return dict(zip(CALLS, made, strict=True))


@pytest.mark.parametrize(("stage", "stream"), CALLS)
def test_a_vendor_is_waited_for_as_long_as_its_limit_says(
    faults: dict[tuple[str, bool], Fault], stage: str, stream: bool
) -> None:
    fault = faults[stage, stream]
    print(f"{stage} {'streamed' if stream else 'whole'}: {fault.seconds:.2f} s, {fault.answer.status_code}")
    assert fault.ended_in_an_error, fault.answer.text
    assert LIMIT_S - 0.1 <= fault.seconds <= LIMIT_S + LATE_S


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_may_set_a_shorter_limit(gateway: GatewayProcess, stream: bool) -> None:
    fault = Fault(gateway, "first_token-alone", stream=stream, **{"x-timeout": 0.5})
    assert fault.ended_in_an_error, fault.answer.text
    assert 0.4 <= fault.seconds <= 0.5 + LATE_S


# ----------------------------------------------------------------- callers


@pytest.mark.parametrize("sent", [b"", b'{"model": "so'])
def test_a_body_is_waited_for_as_long_as_its_limit_says(gateway: GatewayProcess, sent: bytes) -> None:
    with BareCaller(gateway, TOKEN) as caller:
        started = time.monotonic()
        caller.send_head(content_length="1000")
        caller.send(sent)
        answer = caller.read_answer(LONG_S)
        seconds = time.monotonic() - started
    print(f"body, {len(sent)} bytes sent: {seconds:.2f} s")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert BODY_TIMEOUT_S - 0.1 <= seconds <= BODY_TIMEOUT_S + LATE_S


def test_a_body_that_begins_late_gets_no_more_time(gateway: GatewayProcess) -> None:
    with BareCaller(gateway, TOKEN) as caller:
        started = time.monotonic()
        caller.send_head(content_length="1000")
        time.sleep(BODY_TIMEOUT_S - 0.1)
        caller.send(b'{"model": "so')
        answer = caller.read_answer(LONG_S)
        seconds = time.monotonic() - started
    print(f"body that begins late: {seconds:.2f} s")
    assert answer.status_code == 504
    assert seconds <= BODY_TIMEOUT_S + LATE_S


def test_a_request_that_never_gets_beyond_its_head_is_hung_up_on(gateway: GatewayProcess) -> None:
    with BareCaller(gateway, TOKEN) as silent, BareCaller(gateway, TOKEN) as begun:
        begun.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127")
        silent.read_until_closed(BODY_TIMEOUT_S + LATE_S)
        begun.read_until_closed(LATE_S)


def test_after_a_refusal_a_connection_is_not_kept_for_what_may_still_come(gateway: GatewayProcess) -> None:
    with BareCaller(gateway, TOKEN) as caller:
        caller.send_head(content_length="1000")
        assert caller.read_answer(LONG_S).status_code == 504
        caller.send(b"{")
        caller.read_until_closed(BACK_S)


def test_a_stalled_reader_is_waited_for_as_long_as_its_limit_says(gateway: GatewayProcess) -> None:
    with BareCaller(gateway, TOKEN, receive_buffer_bytes=SMALL_BUFFER_BYTES) as caller:
        caller.ask({"model": "endless", "messages": USER, "stream": True})
        seconds_until(lambda: open_streams_of(gateway) == 1, 5)
        seconds = seconds_until(lambda: open_streams_of(gateway) == 0, LONG_S)
    print(f"stalled reader: {seconds:.2f} s")
    assert LIMIT_S - 0.5 <= seconds <= LIMIT_S + LATE_S


# ----------------------------------------------------------------- afterwards


def test_after_a_burst_of_faults_nothing_is_left_open(gateway: GatewayProcess) -> None:
    burst(gateway, "burst1")  # makes what is kept: threads, and the pools' connections
    assert open_streams_of(gateway) == 0
    before = held_by(gateway)
    burst(gateway, "burst2")
    seconds = seconds_until(
        lambda: all(now <= then for now, then in zip(held_by(gateway), before, strict=True)), BACK_S
    )
    print(f"back after {seconds:.2f} s; sockets, other descriptors and threads {before} -> {held_by(gateway)}")
    assert open_streams_of(gateway) == 0


def held_by(gateway: GatewayProcess) -> tuple[int, int, int]:
    """TCP connections, descriptors without those of the databases' pools (which come and go by themselves), threads."""
    process = psutil.Process(gateway.pid)
    return sockets_of(gateway), process.num_fds() - len(process.net_connections(kind="unix")), process.num_threads()


def burst(gateway: GatewayProcess, batch: str) -> None:
    """Thirty calls at once, five with each fault."""
    kinds = [*STAGES, "no body"] * 5

    def go_wrong(kind: str) -> bool:
        if kind == "no body":
            with BareCaller(gateway, TOKEN) as caller:
                caller.send_head(content_length="1000")
                return caller.read_answer(LONG_S).status_code == 504
        return Fault(gateway, f"{kind}-{batch}", stream=True).ended_in_an_error

    with ThreadPoolExecutor(len(kinds)) as callers:
        ended = list(callers.map(go_wrong, kinds))
    assert ended == [True] * 30
