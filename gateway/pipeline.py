"""One request, step by step, in the order in which it happens. Read it top to bottom.

The edge hands over a :class:`Call` and gets back a :class:`WholeAnswer`, a :class:`StreamedAnswer`, or a
GatewayError to render in the caller's dialect.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from msgspec import Raw

from billing.admission import LONGEST_ANSWER, Demand
from billing.budgets import Spender, prompt_bound
from billing.pricing import estimate_tokens, to_usd
from gateway import observability
from gateway.balancing import Balancer
from gateway.content_log import ContentLogWriter
from gateway.dispatch import Dispatcher, DrainedStream, Job, OpenAttempt, ServedStream, StalePolicy
from gateway.dispatch.unattended import keep
from gateway.errors import GatewayError, InternalError, InvalidApiKey, Overloaded, ShuttingDown
from gateway.idempotency import (
    MAX_RETRIED_BYTES,
    AnswerHead,
    IdempotentCalls,
    RecentAnswers,
    Transcript,
    fingerprint_of,
)
from gateway.idempotency import Call as Claimed
from gateway.observability import RequestFacts
from gateway.policy import ModelFacts, TenantPolicy, TokenFacts
from gateway.providers.client import offers
from gateway.request_log import RequestLogRow, RequestLogWriter
from gateway.wire.types import Chunk, Request
from gateway.wire.verbs import CallerFormat, StreamRenderer
from tenants.ratelimit import Asked, Lease, LimitFacts, RateLimiter, Rule, rules_of, telling, that_may_hold

logger = logging.getLogger(__name__)

POLICY_ATTEMPTS = 3  # a policy that changes that often while one request is admitted is changing all the time
CALLER_HUNG_UP = 499  # the status the request log keeps for it, as nginx does
JSON = (b"content-type", b"application/json")
EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
REPLAYED = (b"x-gateway-idempotent-replay", b"true")
NOT_FROM_CACHE = (b"x-gateway-cache", b"miss")
NAMED_BY_CALLER = {
    "strategy": "explicit",
    "task_type": None,
    "complexity": None,
    "reason": "the caller named the model",
    "propensity": 1.0,
    "experiment": None,
}
LIKELY_ANSWER = 1024  # tokens
UNATTENDED_LOOK_S = 0.2
MEANWHILE = frozenset({"hedge", "rescue"})  # attempts whose time ran beside another's, or beside the stream
NOT_CACHED = {"kind": None, "similarity": None, "error_bound": None}

Headers = list[tuple[bytes, bytes]]
AnyStream = ServedStream | DrainedStream


@dataclass(slots=True)
class Call:
    """What came in. ``received`` is ``time.perf_counter()`` at the last byte of the body."""

    request_id: str
    caller: CallerFormat
    body: bytes
    headers: Mapping[str, str]
    credential: str | None
    client_ip: str
    received: float
    opened: float | None = None  # when a stream's first event was there: from then on its vendor sets the pace
    answer_headers: Headers = field(default_factory=list)
    request: Request | None = None  # once it is parsed
    outcome: "Outcome | None" = None
    lease: Lease | None = None  # what its limits hold for it until it ends
    answered: bytes = b""  # what it was told, for tenants who keep that
    broke_off: bool = False  # its stream ended in an error
    left: bool = False  # the caller hung up: whatever else cancels it is the server's shutdown
    renderer: StreamRenderer | None = None  # of its stream, once that has begun

    @property
    def streamed(self) -> bool:
        """Whether the caller is known to wait for a stream."""
        return self.request is not None and self.request.stream

    def early_headers(self) -> Headers:
        """The headers of a stream that starts before its vendor has spoken."""
        return [*EVENT_STREAM, *self.answer_headers, NOT_FROM_CACHE]

    def render_stream_error(self, error: GatewayError) -> bytes:
        """What ends a stream that has begun and got nowhere."""
        assert self.request is not None  # noqa: S101 - only a parsed request starts a stream
        renderer = self.renderer or self.caller.open_stream(self.request)
        return renderer.render_error(error, self.request_id)


@dataclass(slots=True)
class WholeAnswer:
    headers: Headers
    body: bytes


@dataclass(slots=True)
class StreamedAnswer:
    """``events`` yields the bytes of server-sent events; it must be closed (``aclose``) if not read to its end."""

    headers: Headers
    events: AsyncGenerator[bytes, None]


Answer = WholeAnswer | StreamedAnswer


@dataclass(slots=True)
class Outcome:
    """What is known of a request for the request log, filled in as it goes."""

    policy: TenantPolicy
    token: TokenFacts
    request: Request
    job: Job | None = None
    served: OpenAttempt | None = None
    finish_reason: str = ""
    error: GatewayError | None = None
    hung_up: bool = False


class PolicySource(Protocol):
    """Where policies come from (:class:`gateway.runtime.PolicyStore`)."""

    async def find(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """Raises InvalidApiKey, or LedgerUnavailable when nobody can tell."""

    async def find_anew(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """As :meth:`find`, from the database."""

    def forget(self, tenant_id: str) -> None:
        """A newer epoch exists: load this tenant anew at the next look-up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Operator's settings the pipeline works within. Seconds, and requests per second."""

    ip_requests_per_s: int = 200


class Pipeline:
    def __init__(
        self,
        policies: PolicySource,
        limiter: RateLimiter,
        dispatcher: Dispatcher,
        balancer: Balancer,
        *,
        request_log: RequestLogWriter,
        content_log: ContentLogWriter,
        idempotent: IdempotentCalls,
        limits: Limits,
    ) -> None:
        self._policies, self._limiter = policies, limiter
        self._dispatcher, self._balancer = dispatcher, balancer
        self._request_log, self._content_log = request_log, content_log
        self._idempotent, self._limits = idempotent, limits
        self._recent = RecentAnswers()

    async def run(self, call: Call) -> Answer:
        """Serve one call. Raises GatewayError; whatever the end, the request log hears of it."""
        return await self._logged(call, self._run(call))

    async def _logged(self, call: Call, serving: Awaitable[Answer]) -> Answer:
        try:
            return await serving
        except GatewayError as error:
            self._log(call, error=error)
            raise
        except asyncio.CancelledError:
            self._log_cancelled(call)
            raise
        except Exception:
            logger.exception("request %s failed on a bug", call.request_id)
            bug = InternalError("An internal error occurred.")
            self._log(call, error=bug)
            raise bug from None

    async def _run(self, call: Call) -> Answer:
        policy, token = await self._authenticate(call)
        request = call.request = await self._parse_within_limits(call, policy, token)
        asked = Outcome(policy, token, request)
        if (key := call.headers.get("idempotency-key")) is not None:
            return await self._once(call, asked, key)
        if not request.stream and (tries := call.headers.get("x-stainless-retry-count")) is not None:
            return await self._unless_repeated(call, asked, tries)
        return await self._serve(call, asked)

    async def _serve(self, call: Call, asked: "Outcome") -> Answer:
        """The call itself, by a policy that is current when it is admitted."""
        for _ in range(POLICY_ATTEMPTS):
            policy, token, request = asked.policy, asked.token, asked.request
            call.outcome = asked
            model = policy.resolve(request.model, token)
            if request.operation == "count_tokens" and not _counts_tokens(model):
                return self._estimated_count(call, request)
            job = asked.job = self._job(call, policy, token, request, model)
            try:
                if request.stream:
                    return await self._stream(call, asked, job)
                return await self._complete(call, asked, job)
            except StalePolicy:
                self._policies.forget(policy.id)
            asked = Outcome(*await self._authenticate(call), request)
        raise Overloaded("The configuration is changing right now.")

    # ------------------------------------------------------------------ the same call again

    async def _once(self, call: Call, asked: "Outcome", key: str) -> Answer:
        """The answer of the one call that an idempotency key stands for."""
        calls = self._idempotent
        claimed = await calls.claim(asked.token.id, key, fingerprint_of(asked.request.operation, call.body))
        if claimed.mine:
            # In a task of its own: it outlives a caller that hangs up, and serves the one that comes back.
            keep(asyncio.create_task(self._perform(replace(call), asked, claimed)))
            call.lease = None  # that task's now
        else:
            await self._authenticate_anew(call)
            call.outcome = asked
            call.answer_headers.append(REPLAYED)
        transcript = claimed.transcript
        head = await transcript.head()
        headers = [*head.headers] if claimed.mine else [*head.headers, REPLAYED]
        self._log(call)
        if head.streamed:
            return StreamedAnswer(headers, _blocks_of(transcript))
        return WholeAnswer(headers, b"".join([block async for block in transcript.blocks()]))

    async def _perform(self, call: Call, asked: "Outcome", claimed: Claimed) -> None:
        """Make a claimed call and write its answer down for everybody who waits for it."""
        transcript = claimed.transcript
        try:
            answer = await self._logged(call, self._serve(call, asked))
        except GatewayError as error:
            self._idempotent.failed(claimed, error)
            return
        transcript.start(AnswerHead(tuple(answer.headers), isinstance(answer, StreamedAnswer)))
        if isinstance(answer, WholeAnswer):
            await transcript.write(answer.body)
        else:
            async for events in answer.events:
                await transcript.write(events)
        if call.broke_off:
            self._idempotent.spoiled(claimed)
        else:
            transcript.finish()

    async def _unless_repeated(self, call: Call, asked: "Outcome", tries: str) -> Answer:
        """A call of an official SDK, which asks again by itself when an answer got lost on the way."""
        digest = fingerprint_of(asked.token.id, call.body)
        first = self._recent.find(digest) if tries != "0" else None
        if first is not None:
            try:
                headers, body = await asyncio.shield(first)
            except asyncio.CancelledError:
                if not first.cancelled():
                    raise
            else:
                await self._authenticate_anew(call)
                call.outcome = asked
                self._log(call)
                return WholeAnswer([*headers, REPLAYED], body)
        answered = self._recent.begin(digest)
        try:
            answer = await self._serve(call, asked)
            if isinstance(answer, WholeAnswer) and len(answer.body) <= MAX_RETRIED_BYTES:
                answered.set_result((tuple(answer.headers), answer.body))
            return answer
        finally:
            answered.cancel()

    async def _authenticate_anew(self, call: Call) -> None:
        """What is not admitted has no epoch compared: whether the key still holds, only the database can tell."""
        if call.credential is not None:
            _, token = await self._policies.find_anew(call.credential)
            token.authorise("inference", call.client_ip)

    async def _authenticate(self, call: Call) -> tuple[TenantPolicy, TokenFacts]:
        if not call.credential:
            await self._limit(call, None)
            raise InvalidApiKey("You did not provide an API key. Send it as 'Authorization: Bearer <key>'.")
        try:
            policy, token = await self._policies.find(call.credential)
        except InvalidApiKey:
            await self._limit(call, None)
            raise
        token.authorise("inference", call.client_ip)
        return policy, token

    async def _parse_within_limits(self, call: Call, policy: TenantPolicy, token: TokenFacts) -> Request:
        """Limits come before parsing, as a caller over its limit should cost next to nothing; only those that need the
        body come right after it. Either way all are asked at once."""
        limits = that_may_hold(policy.limits, token.project_id, token.id) if policy.limits else ()
        if not any(limit.needs_body for limit in limits):
            await self._limit(call, token, limits)
            return call.caller.parse_request(call.body, call.headers)
        try:
            request = call.caller.parse_request(call.body, call.headers)
        except GatewayError:
            await self._limit(call, token, limits)
            raise
        asked = Asked(request.end_user or "", policy.known_as(request.model), _likely_tokens(request))
        await self._limit(call, token, limits, asked)
        return request

    async def _limit(
        self, call: Call, token: TokenFacts | None, limits: Sequence[LimitFacts] = (), asked: Asked | None = None
    ) -> None:
        rules, slots = rules_of(limits, asked)
        if self._limits.ip_requests_per_s:
            rules.append(Rule(f"ip:{call.client_ip}", self._limits.ip_requests_per_s, 1.0, scope="ip"))
        if token is not None and token.requests_per_minute:
            rules.append(Rule(f"token:{token.id}", token.requests_per_minute, 60.0, scope="token"))
        verdict = await self._limiter.check(rules, slots)
        call.lease = verdict.lease or call.lease
        if verdict.degraded:
            observability.RATE_LIMIT_DEGRADED.inc()
            call.answer_headers.append((b"x-gateway-degraded", b"ratelimit"))
        call.answer_headers += telling.headers(verdict, call.caller.DIALECT)
        if not verdict.allowed:
            raise telling.refusal(verdict)

    def _job(self, call: Call, policy: TenantPolicy, token: TokenFacts, request: Request, model: ModelFacts) -> Job:
        wanted = request.extensions
        return Job(
            request=request,
            request_id=call.request_id,
            tenant_id=policy.id,
            policy_epoch=policy.epoch,
            project_id=token.project_id,
            token_id=token.id,
            targets=self._balancer.targets(
                policy.chain(model, token, request.needs, fallback=wanted.fallback is not False),
                wanted.session_id or request.affinity,
            ),
            timeout_s=wanted.timeout_s,
            hedging=model.hedging,
            demand=_demand(call, policy, token, request) if policy.budgets else None,
        )

    # ------------------------------------------------------------------ whole answers

    async def _complete(self, call: Call, outcome: Outcome, job: Job) -> WholeAnswer:
        completion = await self._dispatcher.complete(job)
        served = outcome.served = job.served
        assert served is not None  # noqa: S101 - whoever answered
        outcome.finish_reason = completion.finish_reason or ""
        metadata = self._metadata(call, job, served, completion.dropped)
        body = call.answered = call.caller.render_completion(completion, metadata, job.request)
        content_type = JSON if completion.content_type is None else (JSON[0], _header(completion.content_type))
        headers = [content_type, *self._answer_headers(call, job, served, completion.dropped)]
        if served.cost_pico is not None:
            headers.append((b"x-gateway-cost-usd", _plain(served.cost_pico).encode()))
        self._log(call)
        return WholeAnswer(headers, body)

    def _estimated_count(self, call: Call, request: Request) -> WholeAnswer:
        """The size of a prompt whose vendor counts none beforehand."""
        body = b'{"input_tokens":%d}' % estimate_tokens(request.input_chars)
        self._log(call)
        return WholeAnswer([JSON, *call.answer_headers, NOT_FROM_CACHE, (b"x-gateway-estimated", b"true")], body)

    # ------------------------------------------------------------------ streams

    async def _stream(self, call: Call, outcome: Outcome, job: Job) -> StreamedAnswer:
        """The answer starts with the vendor's first token, so that until then a target can be changed and an
        error be an error. (The edge starts it without one for a caller that has waited long enough.)"""
        served = await self._dispatcher.open_stream(job)
        call.opened = time.perf_counter()
        outcome.served = served.attempt
        headers = [*EVENT_STREAM, *self._answer_headers(call, job, served.attempt, served.dropped)]
        renderer = call.renderer = call.caller.open_stream(job.request)
        return StreamedAnswer(headers, self._events(call, served, renderer))

    async def _events(self, call: Call, served: AnyStream, renderer: StreamRenderer) -> AsyncGenerator[bytes, None]:
        """The stream in the caller's dialect. The final chunk is held back until usage is known: it carries the
        metadata, and what the vendor sends after it (usage) follows it."""
        held: Chunk | None = None
        after: list[Chunk] = []
        finished = False
        observability.OPEN_STREAMS.inc()
        try:
            async for chunks in served:
                ready: list[bytes] = []
                for chunk in chunks:
                    if chunk.final:
                        if held is not None:
                            ready.append(renderer.render_chunk(held))
                        held = chunk
                    elif held is not None and chunk.usage is not None:
                        after.append(chunk)
                    else:
                        ready.append(renderer.render_chunk(chunk))
                if events := b"".join(ready):
                    yield events
            finished = True
            yield self._closing(call, served, renderer, held, after)
        except GatewayError as error:
            finished = True
            self._note_text(call, served)
            yield self._in_stream_error(call, renderer, error)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:
            logger.exception("stream %s failed on a bug", call.request_id)
            finished = True
            yield self._in_stream_error(call, renderer, InternalError("An internal error occurred."))
        finally:
            observability.OPEN_STREAMS.dec()
            served.close()
            if not finished:
                self._note_text(call, served)
                self._log_cancelled(call)

    def _closing(
        self, call: Call, served: AnyStream, renderer: StreamRenderer, held: Chunk | None, after: Sequence[Chunk]
    ) -> bytes:
        outcome = call.outcome
        if outcome is not None:
            outcome.served = served.job.served = served.attempt  # another one than at first, after a rescue
            outcome.finish_reason = (held.finish_reason if held else None) or ""
        metadata = self._metadata(call, served.job, served.attempt, served.dropped)
        if served.rescues:
            metadata["rescues"] = served.rescues
        last = [renderer.render_chunk(held, metadata)] if held is not None else []
        last += [renderer.render_chunk(chunk) for chunk in after]
        last.append(renderer.render_end())
        self._note_text(call, served)
        self._log(call)
        return b"".join(last)

    @staticmethod
    def _note_text(call: Call, served: AnyStream) -> None:
        if call.outcome is not None and call.outcome.policy.log_content:
            call.answered = served.delivered.text.encode()

    def _in_stream_error(self, call: Call, renderer: StreamRenderer, error: GatewayError) -> bytes:
        call.broke_off = True
        self._log(call, error=error)
        return renderer.render_error(error, call.request_id)

    # ------------------------------------------------------------------ what everyone is told

    def _metadata(self, call: Call, job: Job, attempt: OpenAttempt, dropped: Sequence[str]) -> dict[str, Any]:
        now = time.perf_counter()
        target = attempt.target
        metadata: dict[str, Any] = {
            "request_id": call.request_id,
            "provider": target.provider_name,
            "model": target.model_name,
            "routing_decision": f"{target.model_name}: named by the caller"
            if len(job.attempts) == 1
            else f"{target.model_name}: {attempt.purpose} after {len(job.attempts) - 1} other attempts",
            "routing": NAMED_BY_CALLER,
            "latency_ms": round((now - call.received) * 1000, 3),
            "overhead_ms": round(self._overhead_s(call, job, now) * 1000, 3),
            "cost_usd": _json_usd(attempt.cost_pico),
            "cache_hit": False,
            "cache": NOT_CACHED,
            "fallback_used": job.fallback_used,
            "attempts": job.described_attempts(),
            "guardrails": [],
        }
        if dropped:
            metadata["dropped"] = list(dropped)
        return metadata

    @staticmethod
    def _overhead_s(call: Call, job: Job, now: float) -> float:
        """Our own part: the time until now less the time spent waiting for vendors' first events."""
        in_turn = sum(tried.vendor_s for tried in job.attempts if tried.purpose not in MEANWHILE)
        return max(0.0, (call.opened or now) - call.received - in_turn)

    @staticmethod
    def _answer_headers(call: Call, job: Job, attempt: OpenAttempt, dropped: Sequence[str]) -> Headers:
        target = attempt.target
        headers = [
            *call.answer_headers,
            NOT_FROM_CACHE,
            (b"x-gateway-provider", _header(target.provider_name)),
            (b"x-gateway-model", _header(target.model_name)),
            (b"x-gateway-fallback", b"true" if job.fallback_used else b"false"),
        ]
        if attempt.output_cap is not None and attempt.output_cap < (job.request.max_tokens or LONGEST_ANSWER):
            headers.append((b"x-gateway-max-tokens", b"%d" % attempt.output_cap))
        if dropped:  # the one place for it where a dialect has no room for metadata
            headers.append((b"x-gateway-dropped", _header(", ".join(dropped))))
        return headers

    def _log_cancelled(self, call: Call) -> None:
        if call.left:
            self._log(call, hung_up=True)
        else:
            self._log(call, error=ShuttingDown())

    def _log(self, call: Call, *, error: GatewayError | None = None, hung_up: bool = False) -> None:
        """One row in the request log, for every request whose tenant is known."""
        outcome, call.outcome = call.outcome, None
        if call.lease is not None:
            _end_lease(call, outcome)
        if outcome is None:
            return
        now = time.perf_counter()
        served, job, request = outcome.served, outcome.job, outcome.request
        attempts = job.attempts if job else []
        first_token_at = served.first_token_at if served else None
        ended = time.time()
        latency_s = now - call.received
        first_token_s = first_token_at - ended + latency_s if first_token_at else None
        overhead_s = self._overhead_s(call, job, now) if job else latency_s
        status = CALLER_HUNG_UP if hung_up else error.status if error else 200
        observability.request_done(
            RequestFacts(
                dialect=request.dialect,
                status=status,
                code=error.code if error else "",
                streamed=request.stream,
                duration_s=latency_s,
                first_token_s=first_token_s,
                overhead_s=overhead_s,
            )
        )
        if outcome.policy.log_content:
            self._content_log.put(outcome.policy.id, call.request_id, call.body, call.answered)
        self._request_log.put(
            RequestLogRow(
                id=call.request_id,
                tenant_id=outcome.policy.id,
                project_id=outcome.token.project_id,
                token_id=outcome.token.id,
                started_at=ended - latency_s,
                dialect=request.dialect,
                streamed=request.stream,
                requested_model=request.model[:200],
                model_name=served.target.model_name if served else "",
                provider_name=served.target.provider_name if served else "",
                status=status,
                error_code=error.code if error else "",
                finish_reason=outcome.finish_reason,
                fallback_used=job.fallback_used if job else False,
                attempts=len(attempts),
                input_tokens=sum(tried.usage.total_input for tried in attempts),
                output_tokens=sum(tried.usage.total_output for tried in attempts),
                cost_pico=_total_cost(attempts),
                latency_ms=latency_s * 1000,
                first_token_ms=None if first_token_s is None else first_token_s * 1000,
                overhead_ms=overhead_s * 1000,
                end_user=request.end_user or "",
                tags=request.extensions.tags,
                client_ip=call.client_ip,
            )
        )


def _demand(call: Call, policy: TenantPolicy, token: TokenFacts, request: Request) -> Demand:
    return Demand(
        budgets=policy.budgets,
        spender=Spender(
            project_id=token.project_id,
            token_id=token.id,
            end_user=request.end_user or "",
            budget_key=request.extensions.budget_key or "",
        ),
        prompt_bound=prompt_bound(call.body, request.input_chars, request.needs),
        max_tokens=request.max_tokens,
        choices=request.choices,
        generates=request.operation in ("chat", "completions"),
    )


async def _blocks_of(transcript: Transcript) -> AsyncGenerator[bytes, None]:
    async for block in transcript.blocks():
        yield block


def _counts_tokens(model: ModelFacts) -> bool:
    return any(offers(target.kind, "count_tokens") for target in model.targets)


def _likely_tokens(request: Request) -> int:
    """What a request is charged to limits of tokens until its vendor has counted. Most answers are much shorter than
    their callers allow: charging all of that would lock out whoever allows a lot and uses little."""
    if request.operation == "count_tokens":
        return 0
    prompt = max(1, estimate_tokens(request.input_chars))
    if request.operation not in ("chat", "completions"):
        return prompt
    return prompt + max(1, request.choices) * min(request.max_tokens or LIKELY_ANSWER, LIKELY_ANSWER)


def _end_lease(call: Call, outcome: Outcome | None) -> None:
    """Its slots are free, and the tokens are those that its vendors counted."""
    lease, call.lease = call.lease, None
    if lease is None:
        return
    attempts = outcome.job.attempts if outcome and outcome.job else []
    if _settled(attempts):
        lease.end(_tokens_used(attempts))
    else:  # a vendor goes on working for a caller who has left
        keep(asyncio.create_task(_end_when_settled(lease, attempts)))


async def _end_when_settled(lease: Lease, attempts: Sequence[OpenAttempt]) -> None:
    try:
        while not _settled(attempts):  # noqa: ASYNC110 - rare, and nobody waits for it
            await asyncio.sleep(UNATTENDED_LOOK_S)
    finally:
        lease.end(_tokens_used(attempts))


def _settled(attempts: Sequence[OpenAttempt]) -> bool:
    return all(attempt.outcome is not None for attempt in attempts)


def _tokens_used(attempts: Sequence[OpenAttempt]) -> int:
    return sum(attempt.usage.total_input + attempt.usage.total_output for attempt in attempts)


def _json_usd(cost_pico: int | None) -> Raw | None:
    """An exact JSON number; null where the price is not known, which is not 0."""
    return None if cost_pico is None else Raw(_plain(cost_pico).encode())


def _plain(cost_pico: int) -> str:
    text = f"{to_usd(cost_pico):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _total_cost(attempts: Sequence[OpenAttempt]) -> int | None:
    costs = [attempt.cost_pico for attempt in attempts if attempt.cost_pico is not None]
    return sum(costs) if costs else None


def _header(value: str) -> bytes:
    """Names are the tenant's own: what a header cannot carry is replaced."""
    return value.encode("ascii", "replace").replace(b"\r", b"?").replace(b"\n", b"?")
