"""The fallback chain: which target is asked next, whether one is asked again, and a second one meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from billing.admission import Reserver
from billing.budgets import TARGETS_OWN
from billing.ledger import Ledger
from gateway.dispatch.attempt import (
    NOTHING_USED,
    Job,
    OpenAttempt,
    PassedOver,
    Purpose,
    StalePolicy,
    completed_by_estimate,
    failed_usage,
)
from gateway.dispatch.generated import tokens_of_completion
from gateway.dispatch.rescue import JoinedStream, Way, ways_to_complete
from gateway.dispatch.retries import RetryBudgets
from gateway.dispatch.streams import ChunkSource, DrainedStream, ServedStream
from gateway.dispatch.unattended import keep
from gateway.errors import (
    AllTargetsFailed,
    BudgetExceeded,
    ContextLengthExceeded,
    GatewayError,
    GatewayTimeout,
    Overloaded,
    ProviderError,
    UnsupportedContent,
)
from gateway.providers.client import VendorClient, VendorStream
from gateway.providers.health import TargetHealth
from gateway.providers.target import Target
from gateway.wire.types import Chunk, Completion, Request, Usage

Answer = TypeVar("Answer")
Ask = Callable[[OpenAttempt], Awaitable[Answer]]
Served = tuple[Answer, OpenAttempt]

BUDGET_PATIENCE_S = 20.0
EXPECTED_S = 1.0  # what a target whose times are not known yet is expected to take
HEDGE_AFTER_S = 2.0  # and how long such a one may take before a second one is asked


class Dispatcher:
    """``patience_s`` is how long a request waits for room in a budget that running ones hold."""

    def __init__(
        self, client: VendorClient, ledger: Ledger, health: TargetHealth, patience_s: float = BUDGET_PATIENCE_S
    ) -> None:
        self._client, self._ledger, self._health, self._patience_s = client, ledger, health, patience_s
        self._reserver = Reserver()
        self._retries = RetryBudgets()

    async def complete(self, job: Job) -> Completion:
        """A whole answer from the first target that gives one. Raises GatewayError or StalePolicy."""

        async def ask(attempt: OpenAttempt) -> Completion:
            completion = await self._client.complete(attempt.target, attempt.request, attempt.deadlines)
            attempt.settle("settled", completion.usage or _estimated(job, completion))
            self._health.succeeded(attempt.target.circuit, time.perf_counter() - attempt.started)
            return completion

        completion, job.served = await self._through_chain(job, ask)
        return completion

    async def open_stream(self, job: Job) -> ServedStream | DrainedStream:
        """A stream from the first target that sends a first token. Raises GatewayError or StalePolicy."""

        async def ask(attempt: OpenAttempt) -> ServedStream | DrainedStream:
            stream, first = await self._open(attempt.request, attempt)
            served = ServedStream(job, attempt, stream, first, self._rescue, dropped=stream.dropped)
            return DrainedStream(served) if attempt.target.on_disconnect == "drain" else served

        stream, job.served = await self._through_chain(job, ask)
        return stream

    async def _open(
        self, request: Request, attempt: OpenAttempt, *, translate: bool = False
    ) -> tuple[VendorStream, list[Chunk]]:
        """A vendor's stream and its chunks up to the first that says something."""
        target = attempt.target
        stream = await self._client.stream(target, request, attempt.deadlines, translate=translate)
        try:
            first = await stream.up_to_first_token()
        except BaseException:
            stream.close()
            raise
        attempt.first_token_at = time.time()
        self._health.succeeded(target.circuit, time.perf_counter() - attempt.started)
        return stream, first

    # ------------------------------------------------------------------ the chain

    async def _through_chain(self, job: Job, ask: Ask[Answer]) -> Served[Answer]:
        purpose = job.purpose
        too_long: ContextLengthExceeded | None = None
        while (target := await self._next(job)) is not None:
            try:
                if job.hedging and job.untried:
                    return await self._hedged(job, target, ask, purpose)
                return await self._asked(job, target, ask, purpose)
            except ProviderError as error:
                if not error.retryable:
                    break
            except ContextLengthExceeded as error:
                too_long = error
                _keep_larger(job, target)
            except UnsupportedContent:
                if purpose == job.purpose:
                    raise
            except BudgetExceeded as error:  # of this model or provider alone, perhaps
                if error.details.get("scope") not in TARGETS_OWN or not job.untried:
                    raise
            purpose = job.purpose_of("fallback")
        raise too_long or _exhausted(job)

    async def _next(self, job: Job) -> Target | None:
        """The next target that may be asked now; those that may not are noted."""
        health = self._health
        while job.untried:
            target = job.untried.popleft()
            circuit = target.circuit
            if (pause_s := health.paused_for(circuit)) > 0:
                job.passed_over.append(PassedOver(target, "rate_limited", pause_s))
            elif health.admits(circuit) or await health.try_probe(circuit):
                return target
            else:
                job.passed_over.append(PassedOver(target, "circuit_open", health.retry_in(circuit)))
        return None

    async def _asked(self, job: Job, target: Target, ask: Ask[Answer], purpose: Purpose) -> Served[Answer]:
        """One target's answer, asked again where that helps."""
        self._retries.asked(target.circuit)
        try:
            return await self._attempted(job, target, ask, purpose)
        except ProviderError as error:
            wait_s = self._retries.wait_before_retry(target.circuit, error, self._expected_s(job))
            if wait_s is None:
                raise
        await asyncio.sleep(wait_s)
        return await self._attempted(job, target, ask, job.purpose_of("retry"))

    def _expected_s(self, job: Job) -> float | None:
        """What the next target is expected to take; None: there is none."""
        if not job.untried:
            return None
        return self._health.first_token_s(job.untried[0].circuit, 0.5) or EXPECTED_S

    async def _attempted(self, job: Job, target: Target, ask: Ask[Answer], purpose: Purpose) -> Served[Answer]:
        """One call, written down before and settled after. Raises what it failed with."""
        attempt = OpenAttempt(job, target, self._ledger, self._reserver, purpose)
        judged = False
        try:
            await attempt.admit(self._patience_s)
            answer = await self._unless_caller_leaves(ask, attempt)
            judged = True
        except ProviderError as error:
            judged = True
            attempt.settle("failed", failed_usage(error), error)
            self._health.failed(target.circuit, error)
            raise
        except GatewayError as error:  # the caller's own mistake, or no admission: nothing that tells of the target
            if attempt.admitted:
                attempt.settle("failed", NOTHING_USED, error)
            raise
        finally:
            attempt.vendor_s = time.perf_counter() - attempt.started
            if not judged:
                self._health.abandoned_probe(target.circuit)
        return answer, attempt

    async def _unless_caller_leaves(self, ask: Ask[Answer], attempt: OpenAttempt) -> Answer:
        """One target's answer. When the caller hangs up meanwhile, the attempt is settled all the same."""
        if attempt.target.on_disconnect == "drain":
            asking = asyncio.ensure_future(ask(attempt))
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                keep(asyncio.create_task(self._finish_unattended(asking, attempt)))
                raise
        try:
            return await ask(attempt)
        except asyncio.CancelledError:
            attempt.settle("cancelled", attempt.unseen_usage())
            raise

    async def _finish_unattended(self, asking: "asyncio.Future[Answer]", attempt: OpenAttempt) -> None:
        try:
            answer = await asking
        except GatewayError as error:
            attempt.settle("failed", NOTHING_USED, error)
        except asyncio.CancelledError:
            attempt.settle("cancelled", attempt.unseen_usage())
            raise
        else:
            _let_go(answer)

    # ------------------------------------------------------------------ a second target meanwhile

    async def _hedged(self, job: Job, target: Target, ask: Ask[Answer], purpose: Purpose) -> Served[Answer]:
        """``target``'s answer, or the next one's when this one is slower than usual: whoever is first. The other
        is cancelled, and both are in the ledger."""
        first = asyncio.ensure_future(self._asked(job, target, ask, purpose))
        running = [first]
        served: Served[Answer] | None = None
        try:
            patience_s = self._health.first_token_s(target.circuit, 0.95) or HEDGE_AFTER_S
            await asyncio.wait(running, timeout=patience_s)
            if not first.done() and (second := await self._next(job)) is not None:
                running.append(asyncio.ensure_future(self._asked(job, second, ask, "hedge")))
            served = await _first_success(running)
            return served
        finally:
            for task in running:
                task.cancel()
            for late in await asyncio.gather(*running, return_exceptions=True):
                if not isinstance(late, BaseException) and late is not served:
                    _let_go(late[0])

    # ------------------------------------------------------------------ rescue

    async def _rescue(self, served: ServedStream, error: ProviderError) -> tuple[OpenAttempt, ChunkSource] | None:
        """The rest of an answer that broke off, from the next target that can join it; None if none can."""
        job, delivered = served.job, served.delivered
        broken = served.attempt.target
        self._health.failed(broken.circuit, error)
        while delivered.joinable and (target := await self._next(job)) is not None:
            for way in ways_to_complete(delivered, prefill="prefill" in target.capabilities):
                try:
                    (stream, first), attempt = await self._attempted(job, target, self._asking_for(way, job), "rescue")
                except (ProviderError, StalePolicy):
                    break
                except GatewayError:
                    continue  # a beginning that was refused is not the caller's business: ask without it
                served.rescues.append(
                    {
                        "from": broken.provider_name,
                        "to": target.provider_name,
                        "how": way.NAME,
                        "after_chars": len(delivered.text),
                    }
                )
                return attempt, JoinedStream(stream, first, way, without_thinking=delivered.thinking)
        return None

    def _asking_for(self, way: Way, job: Job) -> Ask[tuple[VendorStream, list[Chunk]]]:
        request = way.ask(job.request)

        async def ask(attempt: OpenAttempt) -> tuple[VendorStream, list[Chunk]]:
            return await self._open(attempt.within_cap(request), attempt, translate=True)

        return ask


async def _first_success(running: "Sequence[asyncio.Future[Served[Answer]]]") -> Served[Answer]:
    """The first answer; when all fail, the first one's failure."""
    waiting = set(running)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and task.exception() is None:
                return task.result()
    return running[0].result()


def _let_go(answer: object) -> None:
    """A stream nobody will read."""
    if isinstance(answer, ServedStream | DrainedStream):
        answer.close()


def _keep_larger(job: Job, target: Target) -> None:
    """Only targets with room for a prompt that ``target`` had none for."""
    room = target.context_window or job.input_estimate()
    larger = [other for other in job.untried if other.context_window is not None and other.context_window > room]
    job.untried.clear()
    job.untried.extend(larger)


def _estimated(job: Job, completion: Completion) -> Usage:
    return completed_by_estimate(NOTHING_USED, job.input_estimate(), tokens_of_completion(completion))


def _exhausted(job: Job) -> GatewayError:
    """Every target failed: what to tell the caller, by what the targets did."""
    attempts = job.described_attempts()
    errors = [attempt.error for attempt in job.attempts if isinstance(attempt.error, ProviderError)]
    waits = [error.retry_after_s for error in errors if error.retry_after_s is not None]
    waits += [passed.for_s for passed in job.passed_over]
    soonest = min(waits, default=None)
    if not errors:
        return Overloaded(
            "Every provider of this model is failing or at its rate limit at the moment.",
            retry_after_s=soonest,
            details={"attempts": attempts},
        )
    if all(error.kind == "timeout" for error in errors):
        return GatewayTimeout("No provider answered in time.", details={"attempts": attempts})
    last = errors[-1].message
    message = f"The provider failed: {last}" if len(errors) == 1 else f"All {len(errors)} attempts failed. Last: {last}"
    return AllTargetsFailed(message, attempts, retry_after_s=soonest)
