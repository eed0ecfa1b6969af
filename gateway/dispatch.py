"""From a list of targets to one answer: each attempt is written down, tried, and settled.

An attempt's row is committed before the vendor is called and settled whatever happens to it: an answer, a
refusal, a cut, a caller who hangs up. A target that fails before the caller has seen anything hands over to
the next one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import uuid_utils

from billing.ledger import Admission, Ledger, NewAttempt, NewSettlement
from billing.pricing import Price, estimate_tokens
from gateway.errors import AllTargetsFailed, GatewayError, GatewayTimeout, ProviderError
from gateway.providers.client import VendorClient, VendorStream
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.wire.types import Chunk, Completion, Request, Usage

Answer = TypeVar("Answer")

NOTHING_USED = Usage()
TOKEN_BY_TOKEN_CHARS = 8  # a vendor whose stream pieces are shorter on average sends one token in each


class StalePolicy(Exception):
    """The tenant's policy changed since it was loaded; nothing was admitted, nothing was sent."""


@dataclass(slots=True)
class Job:
    """One request on its way to a vendor: who asks (for the ledger), what, and the targets in order.

    ``timeout_s`` is the caller's own limit in seconds; ``attempts`` fills up as targets are tried.
    """

    request: Request
    request_id: str
    tenant_id: str
    policy_epoch: int
    project_id: str
    token_id: str
    targets: Sequence[Target]
    timeout_s: float | None = None
    attempts: "list[OpenAttempt]" = field(default_factory=list)

    def input_estimate(self) -> int:
        return estimate_tokens(self.request.input_chars)


class OpenAttempt:
    """One call of one vendor, from admission to settlement. Settles once; later calls change nothing."""

    __slots__ = (
        "_job",
        "_ledger",
        "cost_pico",
        "error",
        "first_token_at",
        "id",
        "outcome",
        "started",
        "target",
        "usage",
        "vendor_s",
    )

    def __init__(self, job: Job, target: Target, ledger: Ledger) -> None:
        self._job, self._ledger, self.target = job, ledger, target
        self.id = str(uuid_utils.uuid7())
        self.started = time.perf_counter()
        self.vendor_s = 0.0
        self.first_token_at: float | None = None
        self.outcome: str | None = None
        self.error: GatewayError | None = None
        self.cost_pico: int | None = None
        self.usage = NOTHING_USED

    async def admit(self) -> None:
        """Commit the row. Raises StalePolicy or LedgerUnavailable; then nothing may be sent."""
        job, target = self._job, self.target
        price = target.price
        admission = await self._ledger.admit(
            NewAttempt(
                id=self.id,
                request_id=job.request_id,
                tenant_id=job.tenant_id,
                policy_epoch=job.policy_epoch,
                project_id=job.project_id,
                token_id=job.token_id,
                end_user=job.request.end_user or "",
                tags=job.request.extensions.tags,
                purpose="fallback" if job.attempts else "serve",
                provider_id=target.provider_id,
                provider_key_id=target.provider_key_id,
                model_id=target.model_id,
                vendor_model=target.vendor_model,
                price_version_id=price.version_id if isinstance(price, Price) else None,
                held_pico=None,
                started_at=time.time(),
            )
        )
        if admission is Admission.STALE_POLICY:
            raise StalePolicy
        job.attempts.append(self)
        self.started = time.perf_counter()

    def settle(self, outcome: str, usage: Usage, error: GatewayError | None = None) -> None:
        if self.outcome is not None:
            return
        self.outcome, self.error, self.usage = outcome, error, usage
        price = self.target.price if isinstance(self.target.price, Price) else None
        self.cost_pico = price.cost(usage) if price else None
        self._ledger.settle(
            NewSettlement(
                attempt_id=self.id,
                tenant_id=self._job.tenant_id,
                outcome=outcome,
                usage=usage,
                cost_pico=self.cost_pico,
                price_version_id=price.version_id if price else None,
                status_code=_vendor_status(error),
                error_code=_error_code(error),
                first_token_at=self.first_token_at,
                ended_at=time.time(),
            )
        )

    def describe(self) -> dict[str, Any]:
        """What may be shown of it in the metadata and in errors."""
        told: dict[str, Any] = {
            "provider": self.target.provider_name,
            "model": self.target.model_name,
            "outcome": self.outcome or "serving",
        }
        if self.error is not None:
            told["error"] = _error_code(self.error)
            if (status := _vendor_status(self.error)) is not None:
                told["status"] = status
        return told


class ServedStream:
    """A vendor's stream whose first chunks have arrived, with its accounting.

    Iterating yields the chunks of one block at a time and settles the attempt at the end; ``close`` is for
    whoever stops reading earlier. Raises ProviderError when the stream ends before its answer does.
    """

    def __init__(self, job: Job, attempt: OpenAttempt, stream: VendorStream, first: list[Chunk]) -> None:
        self.job, self.attempt = job, attempt
        self._stream, self._first = stream, first
        self._usage: Usage | None = None
        self._chars = self._pieces = 0

    def __aiter__(self) -> AsyncIterator[list[Chunk]]:
        return self._settled(self._accounted())

    def close(self) -> None:
        """Stop reading: the vendor's call ends at once and is charged by what was seen of it."""
        self._stream.close()
        self.attempt.settle("cancelled", self._usage_so_far())

    async def _accounted(self) -> AsyncIterator[list[Chunk]]:
        self._account(self._first)
        yield self._first
        async for chunks in self._stream:
            self._account(chunks)
            yield chunks

    async def _settled(self, blocks: AsyncIterator[list[Chunk]]) -> AsyncIterator[list[Chunk]]:
        try:
            async for chunks in blocks:
                yield chunks
            if not self._stream.complete:
                raise ProviderError("The provider's stream ended before its answer did.", kind="stream")
        except ProviderError as error:
            self.attempt.settle("failed", self._usage_so_far(), error)
            raise
        self.attempt.settle("settled", self._usage_so_far())

    def _account(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._chars += chunk.output_chars
            self._pieces += chunk.output_pieces or (chunk.output_chars > 0)
            if chunk.usage is not None:
                self._usage = chunk.usage

    def _usage_so_far(self) -> Usage:
        """The vendor's count; of a stream that was cut or never counted, completed by an estimate."""
        seen = self._usage or NOTHING_USED
        if self._stream.complete and self._usage is not None:
            return seen
        token_by_token = self._chars <= self._pieces * TOKEN_BY_TOKEN_CHARS
        generated = self._pieces if token_by_token else estimate_tokens(self._chars)
        return msgspec.structs.replace(
            seen,
            input=seen.input if seen.total_input else self.job.input_estimate(),
            output=max(seen.output, generated - seen.reasoning),
            source="estimated",
        )


class DrainedStream(ServedStream):
    """A stream that is read to its end even when nobody listens any more, so that its usage is exact
    (``on_disconnect: drain``). A task of its own reads it, so that a caller's hang-up cannot interrupt a read."""

    BLOCKS_AHEAD = 8

    def __init__(self, job: Job, attempt: OpenAttempt, stream: VendorStream, first: list[Chunk]) -> None:
        super().__init__(job, attempt, stream, first)
        self._queue: asyncio.Queue[list[Chunk] | GatewayError | None] = asyncio.Queue(self.BLOCKS_AHEAD)
        self._listening = True
        _keep(asyncio.create_task(self._pump()))

    def __aiter__(self) -> AsyncIterator[list[Chunk]]:
        return self._queued()

    def close(self) -> None:
        self._listening = False
        while not self._queue.empty():  # frees a pump that waits for room
            self._queue.get_nowait()

    async def _pump(self) -> None:
        end: GatewayError | None = None
        try:
            async for chunks in self._settled(self._accounted()):
                if self._listening:
                    await self._queue.put(chunks)
        except ProviderError as error:
            end = error
        finally:
            self._stream.close()
        if self._listening:
            await self._queue.put(end)

    async def _queued(self) -> AsyncIterator[list[Chunk]]:
        while (chunks := await self._queue.get()) is not None:
            if isinstance(chunks, GatewayError):
                raise chunks
            yield chunks


class Dispatcher:
    def __init__(self, client: VendorClient, ledger: Ledger) -> None:
        self._client, self._ledger = client, ledger

    async def complete(self, job: Job) -> tuple[Completion, OpenAttempt]:
        """A whole answer from the first target that gives one. Raises GatewayError or StalePolicy."""

        async def ask(target: Target, attempt: OpenAttempt) -> Completion:
            completion = await self._client.complete(target, job.request, _deadlines(target, job.timeout_s))
            attempt.settle("settled", completion.usage or _estimated(job, completion))
            return completion

        return await self._through_chain(job, ask)

    async def open_stream(self, job: Job) -> ServedStream:
        """A stream from the first target that sends a first event. Raises GatewayError or StalePolicy."""

        async def ask(target: Target, attempt: OpenAttempt) -> ServedStream:
            stream = await self._client.stream(target, job.request, _deadlines(target, job.timeout_s))
            try:
                first = await anext(aiter(stream), None)
            except BaseException:
                stream.close()
                raise
            if first is None:
                stream.close()
                raise ProviderError("The provider's stream was empty.", kind="stream")
            attempt.first_token_at = time.time()
            serve = DrainedStream if target.on_disconnect == "drain" else ServedStream
            return serve(job, attempt, stream, first)

        served, _ = await self._through_chain(job, ask)
        return served

    async def _through_chain(
        self, job: Job, ask: Callable[[Target, OpenAttempt], Awaitable[Answer]]
    ) -> tuple[Answer, OpenAttempt]:
        for target in job.targets:
            attempt = OpenAttempt(job, target, self._ledger)
            await attempt.admit()
            try:
                return await self._tried(ask, target, attempt), attempt
            except ProviderError as error:
                attempt.settle("failed", _failed_usage(error), error)
                if not error.retryable:
                    break
            except GatewayError as error:  # the caller's own mistake: no other target can mend it
                attempt.settle("failed", NOTHING_USED, error)
                raise
            finally:
                attempt.vendor_s = time.perf_counter() - attempt.started
        raise _exhausted(job)

    async def _tried(
        self, ask: Callable[[Target, OpenAttempt], Awaitable[Answer]], target: Target, attempt: OpenAttempt
    ) -> Answer:
        """One target's answer. When the caller hangs up meanwhile, the attempt is settled all the same."""
        if target.on_disconnect == "drain":
            asking = asyncio.ensure_future(ask(target, attempt))
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                _keep(asyncio.create_task(self._finish_unattended(asking, attempt)))
                raise
        try:
            return await ask(target, attempt)
        except asyncio.CancelledError:
            attempt.settle("cancelled", self._unseen(attempt))
            raise

    async def _finish_unattended(self, asking: "asyncio.Future[Any]", attempt: OpenAttempt) -> None:
        try:
            answer = await asking
        except GatewayError as error:
            attempt.settle("failed", NOTHING_USED, error)
        else:
            if isinstance(answer, ServedStream):
                answer.close()

    @staticmethod
    def _unseen(attempt: OpenAttempt) -> Usage:
        """The prompt was sent and nothing came back before the caller left."""
        return Usage(input=attempt._job.input_estimate(), source="estimated")  # noqa: SLF001 - its own module


_unattended: set["asyncio.Task[None]"] = set()


def _keep(task: "asyncio.Task[None]") -> None:
    """The event loop holds tasks weakly: keep one that nobody waits for until it is done."""
    _unattended.add(task)
    task.add_done_callback(_unattended.discard)


async def drained(timeout_s: float) -> None:
    """Wait for calls whose callers have left but whose vendors are still being read."""
    if _unattended:
        await asyncio.wait(set(_unattended), timeout=timeout_s)


def _deadlines(target: Target, timeout_s: float | None) -> Deadlines:
    limits = target.deadlines
    if timeout_s is None or timeout_s >= limits.total:
        return limits
    return Deadlines(
        connect=min(limits.connect, timeout_s),
        first_token=min(limits.first_token, timeout_s),
        between_chunks=min(limits.between_chunks, timeout_s),
        total=timeout_s,
    )


def _estimated(job: Job, completion: Completion) -> Usage:
    return Usage(input=job.input_estimate(), output=estimate_tokens(completion.output_chars), source="estimated")


def _failed_usage(error: ProviderError) -> Usage:
    """A vendor that answered with a refusal bills nothing; of one that went silent nobody can be sure."""
    return NOTHING_USED if error.vendor_status else Usage(source="estimated")


def _exhausted(job: Job) -> GatewayError:
    """Every target failed: what to tell the caller, by what the targets did."""
    errors = [attempt.error for attempt in job.attempts if isinstance(attempt.error, ProviderError)]
    attempts = [attempt.describe() for attempt in job.attempts]
    if errors and all(error.kind == "timeout" for error in errors):
        return GatewayTimeout("No provider answered in time.", details={"attempts": attempts})
    waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
    last = errors[-1].message if errors else ""
    message = (
        f"The provider failed: {last}" if len(attempts) == 1 else f"All {len(attempts)} targets failed. Last: {last}"
    )
    return AllTargetsFailed(message, attempts, retry_after_s=min(waits, default=None))


def _vendor_status(error: GatewayError | None) -> int | None:
    if error is None:
        return 200
    return error.vendor_status if isinstance(error, ProviderError) else error.status


def _error_code(error: GatewayError | None) -> str:
    if error is None:
        return ""
    return f"provider_{error.kind}" if isinstance(error, ProviderError) else error.code
