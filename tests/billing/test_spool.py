import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.groupcommit import json_rows
from billing.ledger import _SETTLE, Ledger, NewSettlement
from billing.spool import MAX_LINE_BYTES, Spool, SpoolFull
from tests.provision import ROOT

from .conftest import Charged, new_id

LINES = [b'{"attempt":1}', b"", b'{"attempt":2,"error_code":"\\n"}', "{ä\u2028}".encode()]

some_lines = st.lists(
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").replace(b"\x1e", b"")), min_size=1, max_size=6
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool"


@pytest.fixture
def open_spool(directory: Path) -> Iterator[Callable[..., Spool]]:
    opened = []

    def open_one(process_id: str = "one", **options: int) -> Spool:
        opened.append(Spool(directory, process_id, **options))
        return opened[-1]

    yield open_one
    for spool in opened:
        spool.close()


@pytest.fixture
def spool(open_spool: Callable[..., Spool]) -> Spool:
    return open_spool()


def replay(spool: Spool) -> list[bytes]:
    """All that is to be replayed, which is then removed."""
    lines: list[bytes] = []
    for path in spool.segments_to_replay():
        lines += spool.read(path)
        spool.remove(path)
    return lines


def written(lines: list[bytes]) -> bytes:
    """The bytes of a segment that holds ``lines``."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), "p")
        spool.append(lines)
        (path,) = spool.segments_to_replay()
        content = path.read_bytes()
        spool.close()
        return content


def read_back(content: bytes) -> tuple[list[bytes], int]:
    """What is read from a segment of these bytes, and in how many places it was damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.spool"
        path.write_bytes(content)
        spool = Spool(Path(folder), "p")
        return list(spool.read(path)), spool.damaged


# --------------------------------------------------------------------------- appending and replaying


def test_what_is_appended_is_replayed_in_order(spool: Spool) -> None:
    spool.append(LINES[:3])
    spool.append(LINES[3:])
    assert replay(spool) == LINES


def test_lines_longer_than_what_is_read_at_once_are_replayed_in_order(spool: Spool) -> None:
    lines = [bytes([65 + number]) * size for number, size in enumerate([MAX_LINE_BYTES, 3, 700_000, 700_000, 5])]
    spool.append(lines)
    assert replay(spool) == lines
    assert spool.damaged == 0


def test_a_new_spool_is_empty_and_touches_nothing(spool: Spool, directory: Path) -> None:
    spool.append([])
    assert spool.segments_to_replay() == []
    assert (spool.empty, spool.pending_bytes) == (True, 0)
    assert not directory.exists()


def test_a_spool_knows_how_much_is_pending_until_it_is_removed(spool: Spool, directory: Path) -> None:
    spool.append(LINES)
    assert (spool.empty, spool.pending_bytes) == (False, len(written(LINES)))
    assert replay(spool) == LINES
    assert (spool.empty, spool.pending_bytes) == (True, 0)
    assert list(directory.iterdir()) == []


def test_only_the_owner_can_read_a_spool(spool: Spool, directory: Path) -> None:
    former = os.umask(0)
    try:
        spool.append(LINES)
    finally:
        os.umask(former)
    (path,) = spool.segments_to_replay()
    assert path == directory / "one.spool"
    assert (path.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)


def test_what_is_appended_during_a_replay_is_left_for_the_next(spool: Spool) -> None:
    spool.append([b"before"])
    (path,) = spool.segments_to_replay()
    lines = spool.read(path)
    spool.append([b"between"])
    assert list(lines) == [b"before"]
    spool.append([b"after"])
    spool.remove(path)
    assert replay(spool) == [b"between", b"after"]


def test_appending_and_replaying_in_two_threads_loses_and_doubles_nothing(spool: Spool) -> None:
    def append_all() -> None:
        for number in range(300):
            spool.append([b"%d" % number])

    appending = threading.Thread(target=append_all)
    appending.start()
    replayed = []
    while appending.is_alive():
        replayed += replay(spool)
    appending.join()
    assert replayed + replay(spool) + replay(spool) == [b"%d" % number for number in range(300)]


def test_a_replay_that_keeps_failing_does_not_pile_up_segments(spool: Spool) -> None:
    for number in range(5):
        spool.append([b"%d" % number])
        assert len(spool.segments_to_replay()) == 1
    assert replay(spool) + replay(spool) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_segment_that_is_being_appended_to_cannot_be_removed(spool: Spool, directory: Path) -> None:
    spool.append(LINES)
    with pytest.raises(ValueError, match=r"one\.spool is not a segment to replay"):
        spool.remove(directory / "one.spool")
    assert replay(spool) == LINES


@pytest.mark.parametrize("line", [b"a\nb", b"\x1e", b"x" * (MAX_LINE_BYTES + 1)])
def test_a_line_that_could_not_be_told_from_others_is_refused_with_all_it_came_with(spool: Spool, line: bytes) -> None:
    with pytest.raises(ValueError, match="a line"):
        spool.append([b"good", line])
    assert replay(spool) == []


# --------------------------------------------------------------------------- limits and failing disks


def test_a_full_spool_takes_nothing_more_until_something_is_removed(open_spool: Callable[..., Spool]) -> None:
    spool = open_spool(max_bytes=2 * len(written([b"12345"])))
    spool.append([b"12345", b"12345"])
    with pytest.raises(SpoolFull):
        spool.append([b""])
    assert replay(spool) == [b"12345", b"12345"]
    with pytest.raises(SpoolFull):
        spool.append([b"12345", b"12345", b""])
    spool.append([b"12345", b"12345"])
    assert replay(spool) == [b"12345", b"12345"]


def test_what_was_taken_over_from_the_dead_counts_towards_the_limit(open_spool: Callable[..., Spool]) -> None:
    dead = open_spool("dead")
    dead.append(LINES)
    dead.close()
    spool = open_spool(max_bytes=len(written(LINES)))
    assert len(spool.segments_to_replay()) == 1
    with pytest.raises(SpoolFull):
        spool.append(LINES)
    assert replay(spool) == LINES
    spool.append(LINES)


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Inode and size of every file and directory at the moment it was flushed."""
    seen: list[tuple[int, int]] = []
    really_flush = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        seen.append((status.st_ino, status.st_size))
        really_flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_what_was_appended_is_flushed_and_so_are_the_names_of_new_and_removed_files(
    spool: Spool, directory: Path, flushed: list[tuple[int, int]]
) -> None:
    spool.append(LINES)
    (path,) = directory.iterdir()
    assert [inode for inode, _ in flushed] == [place.stat().st_ino for place in (directory.parent, directory, path)]
    assert flushed[-1] == (path.stat().st_ino, path.stat().st_size)
    flushed.clear()
    spool.append(LINES)
    assert flushed == [(path.stat().st_ino, path.stat().st_size)]
    (path,) = spool.segments_to_replay()
    flushed.clear()
    spool.remove(path)
    assert [inode for inode, _ in flushed] == [directory.stat().st_ino]


def test_after_a_failed_flush_the_same_file_is_not_trusted_again(
    spool: Spool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    spool.append([b"before"])
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            spool.append([b"failed"])
    spool.append([b"after"])
    assert len(list(directory.iterdir())) == 2
    assert replay(spool) + replay(spool) == [b"before", b"after"]


def test_a_directory_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / "spool", "one")
    with pytest.raises(OSError, match="file"):
        spool.append(LINES)
    assert spool.empty


def test_a_disk_that_fails_in_the_middle_of_a_record_costs_nothing_that_was_appended_before(directory: Path) -> None:
    # The kernel cuts a write at the size limit for files, and refuses the next, as on a full disk.
    script = """
import resource, sys
from pathlib import Path
from billing.spool import Spool
limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
spool = Spool(Path(sys.argv[1]), "one")
spool.append([b"first"])
resource.setrlimit(resource.RLIMIT_FSIZE, (40, limit))
for _ in range(3):
    try:
        spool.append([b"x" * 100])
    except OSError as exc:
        print(type(exc).__name__, spool.pending_bytes, len(list(Path(sys.argv[1]).iterdir())))
spool.append([b"second"])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
spool.append([b"third"])
for _ in range(2):
    for path in spool.segments_to_replay():
        print(*spool.read(path))
        spool.remove(path)
print(spool.damaged, spool.empty)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, directory], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    size = len(written([b"first"]))
    assert run.stdout.splitlines() == [f"OSError {size} 1"] * 3 + ["b'first'", "b'second' b'third'", "0 True"]


# --------------------------------------------------------------------------- torn and damaged files


@settings(max_examples=25, deadline=None)
@given(some_lines)
def test_a_tail_torn_at_any_byte_costs_only_the_record_it_is_in(lines: list[bytes]) -> None:
    content = written(lines)
    ends = [0, *(len(written(lines[: count + 1])) for count in range(len(lines)))]
    for cut in range(len(content) + 1):
        whole = sum(1 for end in ends[1:] if end <= cut)
        assert read_back(content[:cut]) == (lines[:whole], 0 if cut in ends else 1)


@settings(max_examples=25, deadline=None)
@given(some_lines, st.integers(0, 7))
def test_a_flipped_bit_costs_exactly_the_record_it_is_in(lines: list[bytes], bit: int) -> None:
    content = written(lines)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        left, damaged = read_back(bytes(flipped))
        hit = next(number for number in range(len(lines)) if position < len(written(lines[: number + 1])))
        assert left == lines[:hit] + lines[hit + 1 :]
        assert damaged >= 1


@settings(max_examples=200, deadline=None)
@given(some_lines, st.data())
def test_nothing_is_ever_read_that_was_not_written(lines: list[bytes], data: st.DataObject) -> None:
    content = bytearray(written(lines))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, len(content)))
        content[start:end] = data.draw(st.binary(max_size=20))
    left, _ = read_back(bytes(content))
    assert set(left) <= {*lines}


@given(st.binary(max_size=200))
def test_garbage_holds_no_records(garbage: bytes) -> None:
    assert read_back(garbage) == ([], int(garbage != b"") + garbage[1:].count(b"\x1e"))


def test_megabytes_of_zeros_between_two_records_are_one_damaged_place() -> None:
    content = written([b"one"]) + bytes(3_000_000) + written([b"two"])
    assert read_back(content) == ([b"one", b"two"], 1)


def test_damage_is_logged_with_its_offset_and_counted_once(
    spool: Spool, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool.append([b"one", b"two", b"three"])
    (path,) = spool.segments_to_replay()
    start = len(written([b"one"]))
    with path.open("r+b") as file:
        file.seek(start + 12)
        file.write(b"T")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert list(spool.read(path)) == [b"one", b"three"]
    assert caplog.messages == [f"skipped a damaged or torn record at byte {start} of one.spool"]
    assert spool.damaged == 1


# --------------------------------------------------------------------------- several processes

WRITER = """
import itertools, sys
from pathlib import Path
from billing.spool import Spool
spool = Spool(Path(sys.argv[1]), "writer")
for number in itertools.count():
    if number == int(sys.argv[2]):
        sys.stdin.read()
    spool.append([b"%d" % number])
    print(number, flush=True)
"""


@pytest.fixture
def start_writer(directory: Path) -> Iterator[Callable[[int], "subprocess.Popen[str]"]]:
    """Starts a process that appends numbers, tells which ones are on the disk, and waits at the one given."""
    started: list[subprocess.Popen[str]] = []

    def start(waits_at: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", WRITER, str(directory), str(waits_at)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for writer in started:
        writer.kill()
        writer.communicate()


@pytest.mark.parametrize("after_s", [0.0, 0.013, 0.05])
def test_a_writer_killed_at_any_moment_loses_nothing_it_had_flushed(
    spool: Spool, start_writer: Callable[[int], "subprocess.Popen[str]"], after_s: float
) -> None:
    writer = start_writer(-1)
    assert writer.stdout is not None and writer.stdout.readline() == "0\n"
    time.sleep(after_s)
    writer.send_signal(signal.SIGKILL)
    flushed = 1 + writer.communicate()[0].count("\n")
    replayed = replay(spool)
    assert len(replayed) in (flushed, flushed + 1)  # the last one may be on the disk without having been reported
    assert replayed == [b"%d" % number for number in range(len(replayed))]


def test_a_living_writer_is_left_alone_and_a_dead_one_is_replayed_by_one_process(
    open_spool: Callable[..., Spool], start_writer: Callable[[int], "subprocess.Popen[str]"]
) -> None:
    here, there = open_spool("here"), open_spool("there")
    writer = start_writer(3)
    assert writer.stdout is not None and [writer.stdout.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
    assert here.segments_to_replay() == there.segments_to_replay() == []
    writer.kill()
    writer.wait()
    (path,) = here.segments_to_replay()
    assert there.segments_to_replay() == []
    assert replay(here) == [b"0", b"1", b"2"]
    assert there.segments_to_replay() == []
    assert not path.exists()


def test_a_replay_that_was_cut_short_is_taken_up_by_the_next_process(open_spool: Callable[..., Spool]) -> None:
    dead, first, second = open_spool("dead"), open_spool("first"), open_spool("second")
    dead.append(LINES)
    dead.close()
    (path,) = first.segments_to_replay()
    assert next(first.read(path)) == LINES[0]
    first.close()
    assert replay(second) == LINES


def test_own_segments_that_are_being_replayed_are_left_alone_by_others(open_spool: Callable[..., Spool]) -> None:
    here, there = open_spool("here"), open_spool("there")
    here.append([b"one"])
    (path,) = here.segments_to_replay()
    here.append([b"two"])
    assert there.segments_to_replay() == []
    here.remove(path)
    assert there.segments_to_replay() == []
    assert replay(here) == [b"two"]


def test_a_process_of_the_same_name_replays_its_predecessor_and_overwrites_nothing(
    open_spool: Callable[..., Spool],
) -> None:
    former, spool = open_spool("one"), open_spool("one")
    former.append([b"former"])
    former.close()
    spool.append([b"now"])
    assert [path.name for path in spool.segments_to_replay()] == ["one.1.spool", "one.spool"]
    assert replay(spool) == [b"now", b"former"]


# What another process does in the very moment between opening a file and locking it: Python announces every flock.
OVERTAKEN = """
import sys
from pathlib import Path
from billing.spool import Spool
directory = Path(sys.argv[1])
overtake = []
sys.addaudithook(lambda event, _: overtake.pop()() if event == "fcntl.flock" and overtake else None)

def replay(spool):
    for path in spool.segments_to_replay():
        print(*spool.read(path))
        spool.remove(path)

writer, other, third = Spool(directory, "writer"), Spool(directory, "other"), Spool(directory, "third")
"""
MADE_WHILE_ANOTHER_REPLAYS = """
overtake.append(lambda: replay(other))
writer.append([b"made while another replays"])
replay(other)
replay(writer)
"""
MADE_WHILE_ANOTHER_LOOKS = """
overtake.append(lambda: other.segments_to_replay())
writer.append([b"made while another looks"])
replay(other)
replay(writer)
"""
FOUND_WHILE_ANOTHER_REPLAYS = """
writer.append([b"found while another replays"])
writer.close()
overtake.append(lambda: replay(other))
replay(third)
print(third.empty, third.pending_bytes)
"""


@pytest.mark.parametrize(
    ("happens", "printed"),
    [
        (MADE_WHILE_ANOTHER_REPLAYS, ["", "b'made while another replays'"]),
        (MADE_WHILE_ANOTHER_LOOKS, ["", "b'made while another looks'"]),
        (FOUND_WHILE_ANOTHER_REPLAYS, ["b'found while another replays'", "True 0"]),
    ],
)
def test_whoever_is_overtaken_before_the_lock_loses_and_doubles_nothing(
    directory: Path, happens: str, printed: list[str]
) -> None:
    command = [sys.executable, "-c", OVERTAKEN + happens, directory]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == printed
    assert list(directory.iterdir()) == []


def test_a_segment_that_cannot_be_opened_does_not_keep_others_from_being_replayed(
    open_spool: Callable[..., Spool], directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead, spool = open_spool("dead"), open_spool("living")
    dead.append(LINES)
    dead.close()
    (directory / "a.spool").mkdir()
    assert replay(spool) == LINES
    assert "a.spool cannot be replayed" in caplog.text


# --------------------------------------------------------------------------- into the ledger


async def test_settlements_replayed_twice_are_in_the_ledger_once(
    ledger: Ledger, charged: Charged, spool: Spool
) -> None:
    attempts = [charged.attempt(id=new_id()) for _ in range(3)]
    for attempt in attempts:
        await ledger.admit(attempt)
    spool.append([json_rows([charged.settlement(attempt.id)])[1:-1] for attempt in attempts])
    (path,) = spool.segments_to_replay()
    for _ in range(2):
        lines = list(spool.read(path))
        assert [msgspec.json.decode(line, type=NewSettlement).attempt_id for line in lines] == [
            attempt.id for attempt in attempts
        ]
        await ledger._settlement.run(_SETTLE, b"[%b]" % b",".join(lines))
    spool.remove(path)
    settled = charged.rows("SELECT attempt_id::text, input_tokens FROM billing_settlement ORDER BY attempt_id")
    assert settled == [(attempt.id, 10) for attempt in attempts]
