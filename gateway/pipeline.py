"""One request, step by step, in the order in which it happens. Read it top to bottom.

The edge hands over a :class:`Call` and gets back a :class:`WholeAnswer`, a :class:`StreamedAnswer`, or a
GatewayError to render in the caller's dialect.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from msgspec.structs import replace

from billing.budgets import Spender
from billing.estimates import tokens_by_length
from gateway import observability
from gateway.answer_facts import answer_headers, failure_headers, header, metadata, plain_usd
from gateway.balancing import Balancer
from gateway.call import (
    EVENT_STREAM,
    JSON,
    NOT_FROM_CACHE,
    REPLAYED,
    Answer,
    AnyStream,
    Call,
    Outcome,
    StreamedAnswer,
    WholeAnswer,
)
from gateway.dispatch import Dispatcher, Job, StalePolicy
from gateway.dispatch.unattended import keep
from gateway.errors import GatewayError, InternalError, InvalidApiKey, Overloaded
from gateway.idempotency import (
    MAX_RETRIED_BYTES,
    AnswerHead,
    IdempotentCalls,
    RecentAnswers,
    Transcript,
    fingerprint_of,
)
from gateway.idempotency import Call as Claimed
from gateway.journal import Journal
from gateway.own_calls import OnBehalf, demand_of, own_job, reply_of
from gateway.policy import ModelFacts, TenantPolicy, TokenFacts
from gateway.providers.client import offers
from gateway.selection import Question, Selection, Selector
from gateway.stored_answers import StoredAnswers
from gateway.turns import InTurn
from gateway.wire.types import Chunk, Conversation, Message, Request, Sampling, Text
from gateway.wire.verbs import StreamRenderer
from tenants.ratelimit import Asked, LimitFacts, RateLimiter, Rule, rules_of, telling, that_may_hold

logger = logging.getLogger(__name__)

POLICY_ATTEMPTS = 3  # a policy that changes that often while one request is admitted is changing all the time
LIKELY_ANSWER = 1024  # tokens
RULES_REMEMBERED = 4_096
REFUSED_KEYS_CHECKED_EVERY_S = 1.0


class PolicySource(Protocol):
    """Where policies come from (:class:`gateway.runtime.PolicyStore`)."""

    async def find(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """Raises InvalidApiKey, or LedgerUnavailable when nobody can tell."""

    async def find_anew(self, credential: str) -> tuple[TenantPolicy, TokenFacts]:
        """As :meth:`find`, from the database."""

    async def overtaken(self, policy: TenantPolicy) -> bool:
        """Whether there is a newer one. Raises LedgerUnavailable when nobody can tell."""

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
        journal: Journal,
        stored: StoredAnswers,
        idempotent: IdempotentCalls,
        limits: Limits,
        selector: Selector,
    ) -> None:
        self._policies, self._limiter, self._selector = policies, limiter, selector
        self._select_in_turn = InTurn(selector.select)
        self._dispatcher, self._balancer = dispatcher, balancer
        self._journal, self._stored = journal, stored
        self._idempotent, self._limits = idempotent, limits
        self._recent = RecentAnswers()
        self._keys_checked: dict[str, float] = {}  # when a refused key last had its tenant's policy looked at

    def run(self, call: Call) -> Coroutine[None, None, Answer]:
        """Serve one call. Raises GatewayError; whatever the end, the request log hears of it."""
        return self._logged(call, self._run(call))

    async def _logged(self, call: Call, serving: Awaitable[Answer]) -> Answer:
        try:
            return await serving
        except GatewayError as error:
            call.answer_headers += failure_headers(call)
            self._journal.ended(call, error=error)
            raise
        except asyncio.CancelledError:
            self._journal.cancelled(call)
            raise
        except Exception:
            logger.exception("request %s failed on a bug", call.request_id)
            bug = InternalError("An internal error occurred.")
            self._journal.ended(call, error=bug)
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

    async def _serve(self, call: Call, asked: Outcome) -> Answer:
        """The call itself, by a policy that is current when it is admitted."""
        for _ in range(POLICY_ATTEMPTS):
            request = asked.request
            call.outcome = asked
            model = await self._model(call, asked)
            if request.operation == "count_tokens" and not _counts_tokens(model):
                return self._estimated_count(call, request)
            job = asked.job = self._job(call, asked, model)
            if request.continues is not None and len(job.targets) > 1:
                job.go_first_to(await self._stored.first(job.targets, asked.policy.id, request.continues))
            try:
                if request.stream:
                    return await self._stream(call, asked, job)
                return await self._complete(call, asked, job)
            except StalePolicy:
                self._policies.forget(asked.policy.id)
            asked = Outcome(*await self._authenticate(call), request)
        raise Overloaded("The configuration is changing right now.")

    async def _model(self, call: Call, asked: Outcome) -> ModelFacts:
        """The model to begin with: the one that is named, or the router's choice, which is then ``asked.selection``."""
        try:
            return await self._named_or_chosen(call, asked)
        except GatewayError as refusal:
            # What is refused is never admitted, so no epoch is compared: the database can tell whether it still is.
            if refusal.status >= 500 or not await self._policies.overtaken(asked.policy):
                raise
            self._policies.forget(asked.policy.id)
        asked.policy, asked.token = await self._authenticate(call)
        return await self._named_or_chosen(call, asked)

    async def _named_or_chosen(self, call: Call, asked: Outcome) -> ModelFacts:
        policy, name = asked.policy, asked.request.model
        if not policy.leaves_choice(name):
            return policy.resolve(name, asked.token)
        # What a limit of models was asked for holds, unless the configuration changed since.
        asked.selection, call.selection = call.selection or await self._select(call, asked), None
        return asked.selection.models[0]

    async def _select(self, call: Call, outcome: Outcome) -> Selection:
        """The router's choice."""
        policy, token, request = outcome.policy, outcome.token, outcome.request
        policy.refuse_beyond_plan("routing")
        if not self._selector.is_ready(policy):
            await self._selector.get_ready(policy)
        answer = None
        if policy.routing.rules and (question := self._selector.question(policy, token, request)) is not None:
            answer = await self._advice(call, outcome, question)
        return await self._select_in_turn(policy, token, request, call.request_id, answer)

    async def _advice(self, call: Call, outcome: Outcome, question: Question) -> str | None:
        """What a model says that a rule asks; None when it says nothing in time: the rule is then skipped."""
        policy, for_whom = outcome.policy, OnBehalf(call.request_id, outcome.token.project_id)
        conversation = Conversation((Message("user", (Text(question.text),)),), sampling=Sampling(max_tokens=100))
        job = own_job(policy, question.model, conversation, "classify", for_whom, timeout_s=question.timeout_s)
        try:
            return reply_of(job, await self._dispatcher.complete(job), 0.0).text
        except (GatewayError, StalePolicy) as exc:
            logger.info("the model %s that a rule asks gave no answer: %s", question.model, exc)
            return None

    # ------------------------------------------------------------------ the same call again

    async def _once(self, call: Call, asked: Outcome, key: str) -> Answer:
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
        self._journal.ended(call)
        if head.streamed:
            return StreamedAnswer(headers, _blocks_of(transcript))
        return WholeAnswer(headers, b"".join([block async for block in transcript.blocks()]))

    async def _perform(self, call: Call, asked: Outcome, claimed: Claimed) -> None:
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

    async def _unless_repeated(self, call: Call, asked: Outcome, tries: str) -> Answer:
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
                self._journal.ended(call)
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
        try:
            token.authorise("inference", call.client_ip)
        except GatewayError:
            if not await self._key_changed(policy):
                raise
            self._policies.forget(policy.id)
            policy, token = await self._policies.find(call.credential)
            token.authorise("inference", call.client_ip)
        return policy, token

    async def _key_changed(self, policy: TenantPolicy) -> bool:
        """Whether a key that is refused by what is remembered may have been given more since. Asked once in a while, as
        anybody can send a refused key as often as they like."""
        now = time.monotonic()
        if now < self._keys_checked.get(policy.id, 0.0) + REFUSED_KEYS_CHECKED_EVERY_S:
            return False
        self._keys_checked[policy.id] = now
        return await self._policies.overtaken(policy)

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
        model = policy.known_as(request.model)
        if not model and policy.leaves_choice(request.model):
            model = await self._chosen_for_limits(call, Outcome(policy, token, request))
        await self._limit(call, token, limits, Asked(request.end_user or "", model, _likely_tokens(request)))
        return request

    async def _chosen_for_limits(self, call: Call, asked: Outcome) -> str:
        """The router's choice, where a limit may be one of models."""
        try:
            model = await self._model(call, asked)
        except GatewayError:
            call.outcome = asked  # a refusal like any other: the log hears of it
            raise
        call.selection = asked.selection
        return model.name

    async def _limit(
        self, call: Call, token: TokenFacts | None, limits: Sequence[LimitFacts] = (), asked: Asked | None = None
    ) -> None:
        rules, slots = rules_of(limits, asked)
        if self._limits.ip_requests_per_s:
            rules.append(_floor_of(call.client_ip, self._limits.ip_requests_per_s))
        if token is not None and token.requests_per_minute:
            rules.append(_rule_of(token.id, token.requests_per_minute))
        verdict = await self._limiter.check(rules, slots)
        call.lease = verdict.lease or call.lease
        if verdict.degraded:
            observability.RATE_LIMIT_DEGRADED.inc()
            call.answer_headers.append((b"x-gateway-degraded", b"ratelimit"))
        call.answer_headers += telling.headers(verdict, call.caller.DIALECT)
        if not verdict.allowed:
            raise telling.refusal(verdict)

    def _job(self, call: Call, outcome: Outcome, model: ModelFacts) -> Job:
        policy, token, request, selection = outcome.policy, outcome.token, outcome.request, outcome.selection
        wanted = request.extensions
        fallback = wanted.fallback is not False
        if selection is None:
            models: Sequence[ModelFacts] = policy.chain(model, token, request.needs, fallback=fallback)
            task, complexity = wanted.task_type or "", wanted.complexity or ""
        else:
            models = selection.models if fallback else selection.models[:1]
            task, complexity = selection.features.task, selection.features.complexity
        return Job(
            request=request,
            request_id=call.request_id,
            tenant_id=policy.id,
            policy_epoch=policy.epoch,
            project_id=token.project_id,
            token_id=token.id,
            targets=self._balancer.targets(models, wanted.session_id or request.affinity),
            timeout_s=wanted.timeout_s,
            hedging=model.hedging,
            demand=demand_of(policy, _spender(token, request), request, call.body) if policy.budgets else None,
            task=task,
            complexity=complexity,
        )

    # ------------------------------------------------------------------ whole answers

    async def _complete(self, call: Call, outcome: Outcome, job: Job) -> WholeAnswer:
        completion = await self._dispatcher.complete(job)
        served = outcome.served = job.served
        assert served is not None  # noqa: S101 - whoever answered
        outcome.finish_reason = completion.finish_reason or ""
        self._note_answer(job, completion.id)
        told = metadata(call, job, served, completion.dropped)
        body = call.answered = call.caller.render_completion(completion, told, job.request)
        content_type = JSON if completion.content_type is None else (JSON[0], header(completion.content_type))
        headers = [content_type, *answer_headers(call, job, served, completion.dropped)]
        if served.cost_pico is not None:
            headers.append((b"x-gateway-cost-usd", plain_usd(served.cost_pico).encode()))
        self._journal.ended(call)
        return WholeAnswer(headers, body)

    def _estimated_count(self, call: Call, request: Request) -> WholeAnswer:
        """The size of a prompt whose vendor counts none beforehand."""
        body = b'{"input_tokens":%d}' % tokens_by_length(request.input_chars)
        self._journal.ended(call)
        return WholeAnswer([JSON, *call.answer_headers, NOT_FROM_CACHE, (b"x-gateway-estimated", b"true")], body)

    # ------------------------------------------------------------------ streams

    async def _stream(self, call: Call, outcome: Outcome, job: Job) -> StreamedAnswer:
        """The answer starts with the vendor's first token, so that until then a target can be changed and an
        error be an error. (The edge starts it without one for a caller that has waited long enough.)"""
        served = await self._dispatcher.open_stream(job)
        call.opened = time.perf_counter()
        outcome.served = served.attempt
        self._note_answer(job, served.answer_id)
        headers = [*EVENT_STREAM, *answer_headers(call, job, served.attempt, served.dropped)]
        renderer = call.renderer = call.caller.open_stream(job.request)
        return StreamedAnswer(headers, self._events(call, served, renderer), lambda: self._abandon(call, served))

    def _note_answer(self, job: Job, answer_id: str | None) -> None:
        """Of several deployments, the one that a request must go back to that goes on from this answer."""
        if answer_id and len(job.targets) > 1 and job.request.dialect == "openai_responses" and job.served is not None:
            self._stored.note(job.tenant_id, answer_id, job.served.target)

    def _abandon(self, call: Call, served: AnyStream) -> None:
        """Its caller left before the first event could be sent."""
        served.close()
        self._journal.cancelled(call)

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
                self._journal.cancelled(call)

    def _closing(
        self, call: Call, served: AnyStream, renderer: StreamRenderer, held: Chunk | None, after: Sequence[Chunk]
    ) -> bytes:
        outcome = call.outcome
        if outcome is not None:
            outcome.served = served.job.served = served.attempt  # another one than at first, after a rescue
            outcome.finish_reason = (held.finish_reason if held else None) or ""
        told = metadata(call, served.job, served.attempt, served.dropped)
        if served.rescues:
            told["rescues"] = served.rescues
        last = [renderer.render_chunk(held, told)] if held is not None else []
        last += [renderer.render_chunk(chunk) for chunk in after]
        last.append(renderer.render_end())
        self._note_text(call, served)
        self._journal.ended(call)
        return b"".join(last)

    @staticmethod
    def _note_text(call: Call, served: AnyStream) -> None:
        outcome = call.outcome
        if outcome is not None and (outcome.policy.log_content or outcome.judged):
            call.answered = served.delivered.text.encode()

    def _in_stream_error(self, call: Call, renderer: StreamRenderer, error: GatewayError) -> bytes:
        call.broke_off = True
        self._journal.ended(call, error=error)
        return renderer.render_error(error, call.request_id)


@lru_cache(RULES_REMEMBERED)
def _floor_of(address: str, requests_per_s: int) -> Rule:
    return Rule(f"ip:{address}", requests_per_s, 1.0, scope="ip")


@lru_cache(RULES_REMEMBERED)
def _rule_of(token_id: str, requests_per_minute: int) -> Rule:
    return Rule(f"token:{token_id}", requests_per_minute, 60.0, scope="token")


def _spender(token: TokenFacts, request: Request) -> Spender:
    return Spender(
        project_id=token.project_id,
        token_id=token.id,
        end_user=request.end_user or "",
        budget_key=request.extensions.budget_key or "",
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
    prompt = max(1, tokens_by_length(request.input_chars))
    if request.operation not in ("chat", "completions"):
        return prompt
    return prompt + max(1, request.choices) * min(request.max_tokens or LIKELY_ANSWER, LIKELY_ANSWER)
