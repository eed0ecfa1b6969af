"""A streamed answer with its accounting, from one vendor or, after a rescue, from several."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Self

from gateway.dispatch.attempt import NOTHING_USED, Job, OpenAttempt, completed_by_estimate
from gateway.dispatch.generated import Generated
from gateway.dispatch.rescue import Delivered
from gateway.dispatch.unattended import keep
from gateway.errors import GatewayError, ProviderError
from gateway.wire.types import Chunk, Usage


class ChunkSource(Protocol):
    """Where chunks come from: :class:`~gateway.providers.client.VendorStream`, or one joined to what went before."""

    async def __anext__(self) -> list[Chunk]: ...

    def close(self) -> None: ...

    @property
    def complete(self) -> bool: ...


Rescue = Callable[["ServedStream", ProviderError], Awaitable["tuple[OpenAttempt, ChunkSource] | None"]]


class ServedStream:
    """A stream whose first token has arrived.

    Iterating yields the chunks of one block at a time and settles the attempt at the end; ``close`` is for
    whoever stops reading earlier. ``rescue`` finds the rest of a stream that broke off (None: nobody can complete
    it). Raises ProviderError for an answer that has to stay incomplete.
    ``answer_id`` is what the first vendor calls it.
    ``rescues`` says what it did, for the metadata; ``dropped`` names the knobs the vendor does not have.
    """

    def __init__(
        self,
        job: Job,
        attempt: OpenAttempt,
        source: ChunkSource,
        first: list[Chunk],
        rescue: Rescue,
        *,
        dropped: tuple[str, ...],
    ) -> None:
        self.job, self.attempt = job, attempt
        self.delivered = Delivered(job.request)
        self.dropped = dropped
        self.rescues: list[dict[str, Any]] = []
        self.answer_id = next((chunk.id for chunk in first if chunk.id), None)
        self._source = source
        self._first: list[Chunk] | None = first
        self._rescue = rescue
        self._broke_off: ProviderError | None = None  # what the first target did: the answer's end if nobody helps
        self._usage: Usage | None = None
        self._generated = Generated()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks, self._first = self._first, None
        while chunks is None:
            try:
                chunks = await self._source.__anext__()
            except StopAsyncIteration:
                if self._source.complete:
                    self.attempt.settle("settled", self._usage_so_far())
                    raise
                await self._go_on_elsewhere(
                    ProviderError("The provider's stream ended before its answer did.", kind="stream")
                )
            except ProviderError as error:
                await self._go_on_elsewhere(error)
        note, generated = self.delivered.note, self._generated.note
        for chunk in chunks:
            generated(chunk)
            if chunk.usage is not None:
                self._usage = chunk.usage
            note(chunk)
        return chunks

    def close(self) -> None:
        """Stop reading: the vendor's call ends at once and is charged by what was seen of it."""
        self._source.close()
        self.attempt.settle("cancelled", self._usage_so_far())

    async def _go_on_elsewhere(self, error: ProviderError) -> None:
        """Raises what the first target did when nobody can complete the answer."""
        self._source.close()
        self.attempt.settle("failed", self._usage_so_far(), error)
        self._broke_off = self._broke_off or error
        if (rest := await self._rescue(self, error)) is None:
            raise self._broke_off
        self.attempt, self._source = rest
        self._usage = None
        self._generated = Generated()

    def _usage_so_far(self) -> Usage:
        """The vendor's count; of a stream that was cut or never counted, completed by an estimate."""
        if self._usage is not None and self._source.complete:
            return self._usage
        return completed_by_estimate(self._usage or NOTHING_USED, self.job.input_estimate(), self._generated.tokens)


class DrainedStream:
    """A stream that is read to its end even when nobody listens any more, so that its usage is exact
    (``on_disconnect: drain``). A task of its own reads it, so that a caller's hang-up cannot interrupt a read."""

    BLOCKS_AHEAD = 8

    def __init__(self, stream: ServedStream) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[list[Chunk] | GatewayError | None] = asyncio.Queue(self.BLOCKS_AHEAD)
        self._listening = True
        keep(asyncio.create_task(self._pump()))

    @property
    def job(self) -> Job:
        return self._stream.job

    @property
    def attempt(self) -> OpenAttempt:
        return self._stream.attempt

    @property
    def answer_id(self) -> str | None:
        return self._stream.answer_id

    @property
    def delivered(self) -> Delivered:
        return self._stream.delivered

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._stream.dropped

    @property
    def rescues(self) -> list[dict[str, Any]]:
        return self._stream.rescues

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks = await self._queue.get()
        if chunks is None:
            raise StopAsyncIteration
        if isinstance(chunks, GatewayError):
            raise chunks
        return chunks

    def close(self) -> None:
        self._listening = False
        while not self._queue.empty():  # frees a pump that waits for room
            self._queue.get_nowait()

    async def _pump(self) -> None:
        end: GatewayError | None = None
        try:
            async for chunks in self._stream:
                if self._listening:
                    await self._queue.put(chunks)
        except GatewayError as error:
            end = error
        finally:
            self._stream.close()
        if self._listening:
            await self._queue.put(end)
