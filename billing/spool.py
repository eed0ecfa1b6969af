"""Settlements on the local disk while PostgreSQL is away.

A segment is a file of records, each ``<RS><CRC-32 in hex> <length> <line><LF>``. Neither RS nor LF occurs in a line,
so a record begins at every RS and nowhere else: reading goes on there after a record that is torn or damaged, and
one flipped bit costs no more than the record it is in.

Whoever holds a segment's ``flock`` answers for it: its writer while that lives, then the first process to find it.
The kernel releases the lock of a process that dies, however it dies, so a segment is never forgotten and never
replayed by two at a time. A process killed in the middle of a replay leaves it to be replayed again: that must be
harmless, as inserting settlements is.
"""

import fcntl
import itertools
import logging
import os
import re
import tempfile
import threading
from binascii import crc32
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024
SUFFIX = ".spool"
SPOOL_FOLDER = "spool"  # of the data directory

_START, _END = b"\x1e", b"\n"
_HEADER = re.compile(rb"[0-9a-f]{8} ([0-9]{1,7}) ")
_LONGEST_RECORD = MAX_LINE_BYTES + 32
_CHUNK_BYTES = 1024 * 1024


class SpoolFull(Exception):
    """What was to be appended would pass the limit that was set."""


@dataclass(slots=True)
class _Segment:
    descriptor: int  # holds the lock
    size: int
    own: bool


class Spool:
    """One process's way into the spools of ``directory``, on a local disk; the directory is made when needed.

    ``max_bytes`` bounds what this process answers for: what it has appended and what it has taken over from the
    dead. All methods block on the disk and may be called from any thread; the properties never block. To be made
    after forking, as a lock is shared with forked children.
    """

    def __init__(self, directory: Path, process_id: str, *, max_bytes: int = MAX_BYTES) -> None:
        self._directory, self._process_id, self._max_bytes = directory, process_id, max_bytes
        numbered = (f"{process_id}.{number}" for number in itertools.count(1))
        self._names = itertools.chain([process_id], numbered)
        self._segments: dict[Path, _Segment] = {}
        self._active: Path | None = None  # is appended to; never empty
        self._pending_bytes = 0
        self._damage: set[tuple[Path, int]] = set()
        self._lock = threading.Lock()

    @property
    def empty(self) -> bool:
        """Whether this process has nothing to replay, as far as it has looked."""
        return not self._segments

    @property
    def pending_bytes(self) -> int:
        """The size of what this process has to replay, as far as it has looked."""
        return self._pending_bytes

    @property
    def damaged(self) -> int:
        """How many damaged or torn places reading has come across so far, each counted once."""
        return len(self._damage)

    def try_out(self) -> None:
        """Make the directory, and write a byte into it. Raises OSError where nothing could be appended."""
        with self._lock:
            self._make_directory()
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                file.write(_END)
                os.fsync(file.fileno())

    def append(self, lines: Sequence[bytes]) -> None:
        """Returns once every line is flushed to the disk.

        Raises SpoolFull, OSError when the disk fails, and ValueError for a line with a line feed or record separator
        in it or of more than ``MAX_LINE_BYTES``. After SpoolFull and ValueError nothing was written. After OSError it
        is not known whether any line will be read again, so they are to be appended again.
        """
        records = b"".join(_record(_checked(line)) for line in lines)
        if not records:
            return
        with self._lock:
            if self._pending_bytes + len(records) > self._max_bytes:
                raise SpoolFull(f"{self._pending_bytes} of {self._max_bytes} bytes are taken")
            if self._active is None:
                self._active = self._begin_segment()
            path = self._active
            segment = self._segments[path]
            try:
                _write(segment.descriptor, records)
                os.fsync(segment.descriptor)
            except BaseException:
                self._active = None  # after a failed fsync, a second one that succeeds proves nothing
                self._cut_off_doubtful_end(path)
                raise
            segment.size += len(records)
            self._pending_bytes += len(records)

    def segments_to_replay(self) -> list[Path]:
        """This process's own segment, the oldest first where there are several, and those whose writer is dead.

        They are this process's until :meth:`remove` or :meth:`close`, and nothing is appended to them any more. To
        be called with a database at hand: while replaying fails, at most one own segment is added to the list.
        Raises OSError when the directory cannot be read.
        """
        with self._lock:
            if not any(segment.own for path, segment in self._segments.items() if path != self._active):
                self._active = None
            self._take_over_dead()
            return [path for path in self._segments if path != self._active]

    def read(self, path: Path) -> Iterator[bytes]:
        """The intact lines of a segment, in the order they were appended.

        What is damaged is skipped, counted in :attr:`damaged` and logged with its byte offset. Raises OSError.
        """
        with path.open("rb") as file:
            for offset, piece in _pieces(file):
                line = _intact_line(piece)
                end = 0 if line is None else len(_record(line))
                if line is not None:
                    yield line
                if len(piece) > end:
                    self._note_damage(path, offset + end)

    def remove(self, path: Path) -> None:
        """Forget a segment after everything in it has reached the database.

        Raises ValueError for a path that :meth:`segments_to_replay` has not returned, and OSError, after which the
        segment may be found and replayed once more.
        """
        with self._lock:
            if path not in self._segments or path == self._active:
                raise ValueError(f"{path.name} is not a segment to replay")
            path.unlink(missing_ok=True)
            self._release(path)
            _flush_directory(self._directory)

    def close(self) -> None:
        """Leave what is pending to other processes."""
        with self._lock:
            for path in list(self._segments):
                self._release(path)
            self._active = None

    def _begin_segment(self) -> Path:
        self._make_directory()
        while True:
            path = self._directory / f"{next(self._names)}{SUFFIX}"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:  # left by a former process of the same name
                continue
            try:
                # Between the two calls another process may have taken the new file for a dead one's, or removed it.
                if _take(descriptor, path):
                    _flush_directory(self._directory)
                    self._segments[path] = _Segment(descriptor, 0, own=True)
                    return path
            except BaseException:
                path.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            _flush_directory(self._directory.parent)

    def _cut_off_doubtful_end(self, path: Path) -> None:
        segment = self._segments[path]
        try:
            os.truncate(path, segment.size)
            if segment.size == 0:
                path.unlink(missing_ok=True)
        except OSError as exc:  # what is left there is skipped when read, or inserted twice, which does no harm
            logger.warning("the end of %s cannot be cut off: %s", path.name, exc)
        if segment.size == 0:
            self._release(path)

    def _take_over_dead(self) -> None:
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if path in self._segments:
                continue
            try:
                self._take_over(path)
            except FileNotFoundError:  # replayed by another process
                continue
            except OSError as exc:  # one that cannot be opened must not keep the others from being replayed
                logger.error("%s cannot be replayed: %s", path.name, exc)

    def _take_over(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            taken = _take(descriptor, path)
            size = os.fstat(descriptor).st_size
        except BaseException:
            os.close(descriptor)
            raise
        if not taken:
            os.close(descriptor)
            return
        self._segments[path] = _Segment(descriptor, size, own=False)
        self._pending_bytes += size

    def _release(self, path: Path) -> None:
        segment = self._segments.pop(path)
        self._pending_bytes -= segment.size
        os.close(segment.descriptor)

    def _note_damage(self, path: Path, offset: int) -> None:
        if (path, offset) not in self._damage:
            self._damage.add((path, offset))
            logger.warning("skipped a damaged or torn record at byte %d of %s", offset, path.name)


def _checked(line: bytes) -> bytes:
    if _START in line or _END in line:
        raise ValueError("a line holds a line feed or a record separator")
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes is longer than {MAX_LINE_BYTES}")
    return line


def _record(line: bytes) -> bytes:
    return b"%b%08x %d %b%b" % (_START, crc32(line), len(line), line, _END)


def _intact_line(piece: bytes) -> bytes | None:
    """The line of the record ``piece`` begins with, if that is byte for byte what was written for such a line."""
    header = _HEADER.match(piece, len(_START))
    if header is None:
        return None
    line = piece[header.end() : header.end() + int(header[1])]
    return line if piece.startswith(_record(line)) else None


def _pieces(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The file from each start of a record to the next, with its offset, cut where no record can go on."""
    offset, piece, position = 0, b"", 0
    while chunk := file.read(_CHUNK_BYTES):
        first, *others = chunk.split(_START)
        piece = (piece + first)[:_LONGEST_RECORD]
        position += len(first)
        for other in others:
            if piece:
                yield offset, piece
            offset, piece = position, _START + other
            position += len(piece)
    if piece:
        yield offset, piece


def _take(descriptor: int, path: Path) -> bool:
    """Whether the lock of the file could be taken, and that file still is what ``path`` names."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
