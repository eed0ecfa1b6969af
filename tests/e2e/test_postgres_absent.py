"""Promise P5 at its edges: a gateway that is started without PostgreSQL, and settlements that no disk takes either."""

import asyncio
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.conformance.vendors import VendorServer
from tests.e2e import own_postgres
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.own_postgres import OwnPostgres
from tests.e2e.test_postgres_loss import (
    ANSWERED_WITHIN_S,
    DECLARATION,
    REFUSED_WITHIN_S,
    REPLAYED_WITHIN_S,
    SLOW_MACHINE_S,
    STREAMS,
    TEXT,
    TOKEN,
    TOKENS,
    UNKNOWN_TO_MEMORY,
    Refusal,
    Streamed,
    ask,
    away,
    budget,
    calls_of,
    records_in,
    refused,
    seconds_until_served,
    settlements_of_slow,
    spooled,
    streams_over,
    wait_until_replayed,
)

NEW_CALLS = 5
OPEN = (None, None, None)  # an attempt that no settlement is known of
FEW_RECORDS_BYTES = 4096  # a spool that takes some of the settlements, and then no more


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[OwnPostgres]:
    with own_postgres.running() as server:
        yield server


@pytest.fixture(scope="module")
def folder(vendors: VendorServer, postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("absent")
    declaration = DECLARATION.format(url=vendors.url, tokens=TOKENS, token=TOKEN, fresh=UNKNOWN_TO_MEMORY)
    GatewayProcess(postgres.database, made).apply(declaration)
    return made


def readiness(gateway: GatewayProcess) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{gateway.url}/health/ready", timeout=10)
    return answer.status_code, answer.json()


def unavailable(*parts: str) -> tuple[int, dict[str, Any]]:
    checks = {part: "unavailable" if part in parts else "ok" for part in ("database", "spool")}
    return 503, {"status": "unavailable", "checks": checks}


READY = (200, {"status": "ok", "checks": {"database": "ok", "spool": "ok"}})


def wait_until_it_listens(gateway: GatewayProcess) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            assert httpx.get(f"{gateway.url}/health/live", timeout=5).status_code == 200
        except httpx.TransportError:
            assert time.monotonic() < deadline, gateway.output
            time.sleep(0.1)
        else:
            return


def wait_until_settled(postgres: OwnPostgres, before: Counter[tuple[str, str, int]]) -> None:
    deadline = time.monotonic() + REPLAYED_WITHIN_S
    while OPEN in (made := settlements_of_slow(postgres) - before):
        assert time.monotonic() < deadline, made
        time.sleep(0.2)


@contextmanager
def spool_of(folder: Path, how: str) -> Iterator[None]:
    """A file where the spool's directory belongs for the block, if it shall have ``no folder``."""
    spool = folder / "spool"
    if how == "no folder":
        shutil.rmtree(spool, ignore_errors=True)
        spool.write_text("")
    try:
        yield
    finally:
        if how == "no folder":
            spool.unlink()


def assert_all_refused(refusals: list[Refusal]) -> None:
    assert {refusal.status for refusal in refusals} == {503}
    assert all(int(refusal.retry_after) >= 1 for refusal in refusals)
    assert max(refusal.seconds for refusal in refusals) <= REFUSED_WITHIN_S + SLOW_MACHINE_S


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_gateway_started_without_postgresql_says_so_and_serves_once_that_is_there(
    how: str, folder: Path, vendors: VendorServer, postgres: OwnPostgres
) -> None:
    vendors.reset()
    gateway = GatewayProcess(postgres.database, folder)
    try:
        with ThreadPoolExecutor(1) as pool:
            with away(postgres, how):
                started = pool.submit(gateway.start)  # returns once the gateway is ready
                wait_until_it_listens(gateway)
                assert readiness(gateway) == unavailable("database")
                refusals = asyncio.run(refused(gateway, count=NEW_CALLS))
                assert not started.done()
                assert vendors.log == []
            served_after_s = seconds_until_served(gateway)
            started.result()
        assert_all_refused(refusals)
        slowest_s = max(refusal.seconds for refusal in refusals)
        print(
            f"PostgreSQL {how} at the start: refused within {slowest_s:.2f} s, served {served_after_s:.2f} s after it came"
        )
        assert served_after_s <= ANSWERED_WITHIN_S
        assert readiness(gateway) == READY
    finally:
        gateway.stop()


@pytest.mark.parametrize("how", ["no folder", "full"])
def test_settlements_that_no_disk_takes_wait_in_memory_and_nothing_new_is_paid_for_meanwhile(
    how: str, vendors: VendorServer, postgres: OwnPostgres, folder: Path
) -> None:
    with spool_of(folder, how), GatewayProcess(postgres.database, folder) as gateway:
        assert ask(gateway).status_code == 200
        before = settlements_of_slow(postgres)
        vendors.reset()
        if how == "full":
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (FEW_RECORDS_BYTES, resource.RLIM_INFINITY))
        try:
            streamed, refusals = asyncio.run(streams_over(gateway, postgres, "stopped", new_calls=NEW_CALLS))
            refusals += asyncio.run(refused(gateway, count=NEW_CALLS))
            told = readiness(gateway)
            on_disk = records_in(spooled(gateway))
        finally:
            postgres.start()
        served_after_s = seconds_until_served(gateway)
        wait_until_settled(postgres, before)
        wait_until_replayed(gateway)
        assert readiness(gateway) == READY

    print(f"spool {how}: {on_disk} of {STREAMS} settlements on the disk, served again after {served_after_s:.2f} s")
    assert streamed == [Streamed(TEXT, complete=True)] * STREAMS
    assert_all_refused(refusals)
    assert told == unavailable("database", "spool")
    assert on_disk < STREAMS
    assert served_after_s <= ANSWERED_WITHIN_S
    assert len(calls_of(vendors, "slow")) == STREAMS
    assert len(calls_of(vendors, "quick")) == 1  # the one that was served again
    assert settlements_of_slow(postgres) - before == {("settled", "vendor", TOKENS): STREAMS}
    spent, lines, held = budget(postgres)
    assert (spent, held) == (lines, 0)
