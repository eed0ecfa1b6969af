"""A disk that takes no settlements, or does not let go of them, costs none of them and stops nothing else."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from billing import ledger as ledger_module
from billing.groupcommit import json_rows
from billing.ledger import ADMITTED, Ledger
from billing.pricing import to_usd
from billing.spool import Spool
from gateway.errors import LedgerUnavailable
from tests.e2e.own_postgres import OwnPostgres

from .conftest import Charged, new_id
from .test_ledger import until

SETTLED = "SELECT cost_usd FROM billing_settlement WHERE attempt_id = %s"


class NeverEmptied(Spool):
    """On a disk that has turned read-only."""

    def remove(self, path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))


@pytest.fixture
def in_the_way(tmp_path: Path) -> Path:
    """A file where the spool's directory belongs."""
    path = tmp_path / "spool"
    path.write_text("")
    return path


@pytest.fixture
async def opened(charged: Charged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    monkeypatch.setattr(ledger_module, "HEARTBEAT_S", 0.05)
    process_id = new_id()
    ledger = Ledger(charged.database_url, process_id, "host:42", NeverEmptied(tmp_path / "spool", process_id))
    await ledger.open()
    yield ledger
    await ledger.close()


def test_a_spool_that_is_tried_out_is_left_empty(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "p")
    spool.try_out()
    assert list((tmp_path / "spool").iterdir()) == []
    assert spool.empty


def test_trying_out_says_what_is_wrong(in_the_way: Path) -> None:
    with pytest.raises(OSError, match="exists"):
        Spool(in_the_way, "p").try_out()


async def test_an_operator_hears_of_a_bad_spool_before_it_is_needed(
    charged: Charged, in_the_way: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(charged.database_url, new_id(), "host:42", Spool(in_the_way, "p"))
    await ledger.open()
    assert "there is no spool" in caplog.text
    assert await ledger.ready()
    await ledger.close()


async def test_a_spool_that_cannot_be_emptied_holds_up_nothing(opened: Ledger, charged: Charged) -> None:
    spooled, withdrawn = charged.attempt(), charged.attempt()
    for attempt in (spooled, withdrawn):
        assert await opened.admit(attempt) is ADMITTED
    assert opened._spool is not None
    opened._spool.append([json_rows([charged.settlement(spooled.id, cost_pico=5)])[1:-1]])
    opened._withdrawn.append(withdrawn.id)
    await until(lambda: charged.rows(SETTLED, withdrawn.id) == [(0,)])
    assert charged.rows(SETTLED, spooled.id) == [(to_usd(5),)]
    assert await opened.admit(charged.attempt()) is ADMITTED


async def test_what_neither_postgresql_nor_the_disk_takes_stays_in_memory_and_nothing_is_admitted(
    own_server: OwnPostgres, breakable: Callable[[], Charged], in_the_way: Path
) -> None:
    charged = breakable()
    ledger = Ledger(charged.database_url, new_id(), "host:42", Spool(in_the_way, "p"))
    await ledger.open()
    before, late = charged.attempt(), charged.attempt()
    assert await ledger.admit(before) is ADMITTED
    own_server.stop()
    try:
        ledger.settle(charged.settlement(before.id, cost_pico=5))
        assert not await ledger.drain(1)
        with pytest.raises(LedgerUnavailable):
            await ledger.admit(charged.attempt(policy_epoch=late.policy_epoch))
    finally:
        await asyncio.to_thread(own_server.start)
    assert await ledger.drain()
    assert charged.rows(SETTLED, before.id) == [(to_usd(5),)]
    assert await ledger.admit(late) is ADMITTED  # at once, not with the next heartbeat
    assert await ledger.ready()
    await ledger.close()
