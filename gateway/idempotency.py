"""One call for one idempotency key: who comes second joins the running call or gets its finished answer.

The answer of a call is a :class:`Transcript`, which any number of readers read from its start. In this process a
second caller reads along as it is written; another process gets the finished answer through Redis, encrypted, and
waits for it meanwhile. Redis being away leaves what happens within one process.

An official SDK marks its own retries; their calls carry no key, but the same body. Whole answers are kept for those
in this process for a minute.
"""

import asyncio
import hashlib
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct
from redis.exceptions import RedisError

from gateway.errors import GatewayError, IdempotencyConflict, InvalidRequest, Overloaded
from tenants.crypto import DecryptionFailed, Keyring

logger = logging.getLogger(__name__)

MAX_KEY_CHARS = 255
KEPT_S = 24 * 3600.0
RETRIES_KEPT_S = 60.0
MAX_RETRIED_BYTES = 64 << 10  # whole answers are rarely longer
_MOST_RECENT = 2000
MAX_ANSWER_BYTES = 1 << 20  # an answer longer than that is delivered, but cannot be replayed
MAX_KEPT_BYTES = 64 << 20  # finished answers in this process's memory
LEASE_S = 30.0
RENEW_S = 10.0
POLL_S = 0.1
REDIS_TIMEOUT_S = 0.05  # on a caller's time

Headers = tuple[tuple[bytes, bytes], ...]


class AnswerHead(Struct, frozen=True):
    """``streamed`` answers go out block by block, others in one piece."""

    headers: Headers
    streamed: bool


class Transcript:
    """One call's answer as it is produced. Blocks that every reader has seen are let go once it is too large."""

    def __init__(self) -> None:
        self._head: AnswerHead | None = None
        self._blocks: list[bytes] = []
        self._let_go = 0  # blocks that are no longer kept
        self._bytes = 0
        self._finished = False
        self._replayable = True
        self._failure: GatewayError | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._positions: dict[int, int] = {}  # of the readers under way
        self._readers = 0

    # ------------------------------------------------------------------ written by whoever performs the call

    def start(self, head: AnswerHead) -> None:
        self._head = head
        self._tell()

    async def write(self, block: bytes) -> None:
        """Waits, once the answer is too large to be kept, for the slowest reader."""
        self._blocks.append(block)
        self._bytes += len(block)
        self._tell()
        while self.too_large and self._forget_what_was_read() > MAX_ANSWER_BYTES:
            self._room.clear()
            await self._room.wait()

    def finish(self, *, replayable: bool = True) -> None:
        """An answer that ended in an error is complete for those who read it, and for nobody else."""
        self._finished, self._replayable = True, replayable
        self._tell()

    def fail(self, error: GatewayError) -> None:
        self._failure = error
        self._tell()

    # ------------------------------------------------------------------ read

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def too_large(self) -> bool:
        return self._bytes > MAX_ANSWER_BYTES

    @property
    def kept_bytes(self) -> int:
        return sum(map(len, self._blocks))

    async def head(self) -> AnswerHead:
        """As soon as the answer begins. Raises what the call failed with before that."""
        while self._head is None:
            if self._failure is not None:
                raise self._failure
            await self.more()
        return self._head

    async def blocks(self) -> AsyncIterator[bytes]:
        """The answer from its start. Raises what the call failed with on the way."""
        reader = self._readers = self._readers + 1
        position = self._positions[reader] = 0
        try:
            while True:
                while position - self._let_go < len(self._blocks):
                    block = self._blocks[position - self._let_go]
                    position += 1
                    yield block
                    self._positions[reader] = position
                    self._room.set()
                if self._finished:
                    return
                if self._failure is not None:
                    raise self._failure
                await self.more()
        finally:
            del self._positions[reader]
            self._room.set()

    def record(self) -> bytes | None:
        """The finished answer as other processes read it; None for one that cannot be replayed."""
        if not (self._finished and self._replayable) or self.too_large or self._head is None:
            return None
        return msgspec.msgpack.encode((self._head, b"".join(self._blocks)))

    def replay(self, record: bytes) -> None:
        """Takes over an answer another process has finished."""
        head, body = msgspec.msgpack.decode(record, type=tuple[AnswerHead, bytes])
        self._head, self._blocks, self._bytes = head, [body], len(body)
        self.finish()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def more(self, within_s: float | None = None) -> None:
        """Waits until something is written, or the answer ends."""
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            pass

    def _forget_what_was_read(self) -> int:
        """Bytes that some reader has yet to read."""
        seen = min(self._positions.values(), default=self._let_go + len(self._blocks))
        if (count := seen - self._let_go) > 0:
            del self._blocks[:count]
            self._let_go += count
        return self.kept_bytes


class SharedClaim(Struct):
    """What Redis knows of a key: the running call's owner, or the finished answer. ``number`` tells an owner's claims
    of one key apart."""

    fingerprint: bytes
    owner: str
    number: int
    answer: bytes = b""


# KEYS: the claim's. ARGV: the claim as we wrote it; a later one is not ours to take away.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(slots=True)
class Call:
    """A claimed key. ``mine``: this caller has to perform the call and tell the transcript."""

    name: str
    fingerprint: bytes
    transcript: Transcript
    mine: bool = True
    claimed_at: float = field(default_factory=time.monotonic)
    written: bytes = b""  # our claim in Redis


class IdempotentCalls:
    """One per process. ``keyring`` encrypts answers on their way through Redis."""

    def __init__(self, shared: redis.asyncio.Redis, keyring: Keyring, process_id: str) -> None:
        self._redis, self._keyring, self._process_id = shared, keyring, process_id
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()

    async def close(self) -> None:
        while self._background:
            for task in self._background:
                task.cancel()  # repeated: redis-py swallows a cancellation that meets it while connecting
            await asyncio.wait(set(self._background), timeout=1.0)

    async def claim(self, scope: str, key: str, fingerprint: bytes) -> Call:
        """The call that ``key`` stands for within ``scope`` (an API token).

        Raises InvalidRequest for a key that is none, IdempotencyConflict where it stands for another request or for an
        answer too large to be kept.
        """
        if not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
            raise InvalidRequest(f"An idempotency key has 1 to {MAX_KEY_CHARS} printable characters.")
        name = hashlib.blake2b(f"{scope}\0{key}".encode(), digest_size=32).hexdigest()
        if (known := self._known(name)) is not None:
            _check(known.fingerprint, fingerprint)
            if known.transcript.too_large:
                raise IdempotencyConflict("The answer to this idempotency key was too large to be kept.")
            return Call(name, fingerprint, known.transcript, mine=False)
        call = self._calls[name] = Call(name, fingerprint, Transcript())
        claimed = await self._claim_shared(call)
        if claimed is None:
            self._in_background(self._perform, call)
            return call
        if claimed.fingerprint != fingerprint:
            self._forget(call)
        _check(claimed.fingerprint, fingerprint)
        call.mine = False
        self._in_background(self._follow, call)
        return call

    def failed(self, call: Call, error: GatewayError) -> None:
        """Whoever joined is told the same; the key is free again."""
        call.transcript.fail(error)
        self._forget(call)

    def spoiled(self, call: Call) -> None:
        """The answer broke off after it had begun: who reads it has all there is, and the key is free again."""
        call.transcript.finish(replayable=False)
        self._forget(call)

    # ------------------------------------------------------------------ this process

    def _known(self, name: str) -> Call | None:
        call = self._calls.get(name)
        if call is not None and call.transcript.finished and time.monotonic() - call.claimed_at > KEPT_S:
            del self._calls[name]
            return None
        return call

    def _forget(self, call: Call) -> None:
        if self._calls.get(call.name) is call:
            del self._calls[call.name]

    def _make_room(self) -> None:
        """Finished answers go, oldest first, when there are too many; Redis still has them."""
        total = sum(call.transcript.kept_bytes for call in self._calls.values())
        for call in list(self._calls.values()):
            if total <= MAX_KEPT_BYTES:
                return
            if call.transcript.finished:
                total -= call.transcript.kept_bytes
                self._forget(call)

    # ------------------------------------------------------------------ shared

    async def _claim_shared(self, call: Call) -> SharedClaim | None:
        """Who has the key already; None if it is ours now, or if Redis cannot be asked."""
        mine = call.written = self._encoded(call)
        lease_ms = int(LEASE_S * 1000)
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                if await self._redis.set(_shared(call), mine, nx=True, px=lease_ms):
                    return None
                before = await self._redis.get(_shared(call))
                claimed = None if before is None else _claim_of(before)
                if claimed is not None and claimed.owner == self._process_id and not claimed.answer:
                    # Our own, of a call that has failed meanwhile: it is about to be released.
                    await self._redis.set(_shared(call), mine, px=lease_ms)
                    return None
        except (RedisError, OSError, TimeoutError):
            return None
        return claimed

    def _encoded(self, call: Call, answer: bytes = b"") -> bytes:
        return msgspec.msgpack.encode(SharedClaim(call.fingerprint, self._process_id, next(self._numbers), answer))

    async def _perform(self, call: Call) -> None:
        """Beside our own call: keeps the lease, then leaves the answer to others."""
        transcript = call.transcript
        renewed_at = time.monotonic()
        while not transcript.finished and not transcript.failed:
            await transcript.more(RENEW_S)
            if time.monotonic() - renewed_at > RENEW_S:
                renewed_at = time.monotonic()
                await self._redis.pexpire(_shared(call), int(LEASE_S * 1000))
        record = transcript.record()
        if record is None:
            await self._redis.eval(_RELEASE, 1, _shared(call), call.written)  # type: ignore[misc, arg-type] # bytes are fine
            return
        self._make_room()
        sealed = self._keyring.encrypt(record, call.name.encode())
        await self._redis.set(_shared(call), self._encoded(call, sealed), ex=int(KEPT_S))

    async def _follow(self, call: Call) -> None:
        """Another process performs the call: wait for its answer."""
        lost = Overloaded("The call of this idempotency key was lost. Try again.", retry_after_s=1.0)
        try:
            while (raw := await self._redis.get(_shared(call))) is not None:
                claimed = _claim_of(raw)
                if claimed.answer:
                    call.transcript.replay(self._keyring.decrypt(claimed.answer, call.name.encode()))
                    return
                await asyncio.sleep(POLL_S)
        except (RedisError, OSError, DecryptionFailed) as exc:
            logger.warning("an idempotent call of another process cannot be followed: %s", exc)
        self.failed(call, lost)

    def _in_background(self, work: Callable[[Call], Coroutine[Any, Any, None]], call: Call) -> None:
        async def attempt() -> None:
            try:
                await work(call)
            except (RedisError, OSError) as exc:
                logger.warning("an idempotency key is not shared with other processes: %s", exc)

        task = asyncio.create_task(attempt())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class RecentAnswers:
    """Whole answers of calls that an SDK may repeat of its own accord, for a minute."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, tuple[float, asyncio.Future[tuple[Headers, bytes]]]] = OrderedDict()

    def find(self, digest: bytes) -> "asyncio.Future[tuple[Headers, bytes]] | None":
        """The first try's answer, or what will be it; a try that failed is not repeated."""
        known = self._answers.get(digest)
        if known is None or known[1].cancelled() or time.monotonic() - known[0] > RETRIES_KEPT_S:
            return None
        return known[1]

    def begin(self, digest: bytes) -> "asyncio.Future[tuple[Headers, bytes]]":
        """A try: its answer is to be set on the future, which is cancelled if there will be none to be repeated."""
        answer: asyncio.Future[tuple[Headers, bytes]] = asyncio.get_running_loop().create_future()
        self._answers[digest] = (time.monotonic(), answer)
        self._answers.move_to_end(digest)
        self._let_go()
        return answer

    def _let_go(self) -> None:
        now = time.monotonic()
        while self._answers:
            begun, _ = next(iter(self._answers.values()))
            if now - begun < RETRIES_KEPT_S and len(self._answers) <= _MOST_RECENT:
                return
            self._answers.popitem(last=False)


def fingerprint_of(path: str, body: bytes) -> bytes:
    """What two requests have in common that are the same: dialect and body."""
    return hashlib.blake2b(body, digest_size=32, person=path.encode()[:16]).digest()


def _check(known: bytes, given: bytes) -> None:
    if known != given:
        raise IdempotencyConflict("This idempotency key was used for another request.")


def _shared(call: Call) -> str:
    return f"pointsman:idempotent:{call.name}"


def _claim_of(raw: object) -> SharedClaim:
    assert isinstance(raw, bytes)  # noqa: S101 - the client does not decode answers
    return msgspec.msgpack.decode(raw, type=SharedClaim)
