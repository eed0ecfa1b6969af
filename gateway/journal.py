"""What remains of a call when it is over: its row in the request log, figures, content where the tenant keeps that, and
nothing of what its limits held for it."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from msgspec import Raw

from gateway import observability
from gateway.answer_facts import overhead_s
from gateway.call import Call, Outcome
from gateway.content_log import ContentLogWriter
from gateway.dispatch import OpenAttempt
from gateway.dispatch.unattended import keep
from gateway.errors import GatewayError, ShuttingDown
from gateway.observability import RequestFacts
from gateway.request_log import RequestLogRow, RequestLogWriter
from gateway.selection import Selection
from gateway.wire.types import Request
from routing.decision_log import DecisionRow, stored_vector
from routing.judge.samples import Sample, SampleWriter
from tenants.ratelimit import Lease

OK = 200
CALLER_HUNG_UP = 499  # the status the request log keeps for it, as nginx does
UNATTENDED_LOOK_S = 0.2


class Journal:
    def __init__(self, request_log: RequestLogWriter, content_log: ContentLogWriter, samples: SampleWriter) -> None:
        self._request_log, self._content_log, self._samples = request_log, content_log, samples

    def cancelled(self, call: Call) -> None:
        """It was stopped: by its caller, who left, or by the server, which is shutting down."""
        if call.left:
            self.ended(call, hung_up=True)
        else:
            self.ended(call, error=ShuttingDown())

    def ended(self, call: Call, *, error: GatewayError | None = None, hung_up: bool = False) -> None:
        """Whatever the end: limits get back what they held, and where the tenant is known there is a row in the log.
        Only the first end of a call counts."""
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
        own_s = overhead_s(call, job, now) if job else latency_s
        status = CALLER_HUNG_UP if hung_up else error.status if error else OK
        observability.request_done(
            RequestFacts(
                dialect=request.dialect,
                status=status,
                code=error.code if error else "",
                streamed=request.stream,
                duration_s=latency_s,
                first_token_s=first_token_s,
                overhead_s=own_s,
            )
        )
        if outcome.policy.log_content:
            self._content_log.put(outcome.policy.id, call.request_id, call.body, call.answered)
        row = RequestLogRow(
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
            input_tokens=sum([tried.usage.total_input for tried in attempts]),
            output_tokens=sum([tried.usage.total_output for tried in attempts]),
            cost_pico=_total_cost(attempts),
            latency_ms=latency_s * 1000,
            first_token_ms=None if first_token_s is None else first_token_s * 1000,
            overhead_ms=own_s * 1000,
            end_user=request.end_user or "",
            tags=request.extensions.tags,
            client_ip=call.client_ip,
        )
        selection = outcome.selection
        if selection is None or request.operation != "chat":
            self._request_log.put(row)
            return
        self._request_log.put(row, partial(_decision_row, row.id, selection))
        if selection.judged and status == OK and not call.broke_off:
            self._samples.put(row.tenant_id, row.id, _sample(call, request, outcome.finish_reason))


def _decision_row(request_id: str, selection: Selection) -> DecisionRow:
    choice, features, table = selection.choice, selection.features, selection.decision.table()
    return DecisionRow(
        request_id=request_id,
        strategy=selection.strategy,
        engine=choice.by,
        state_version=selection.state_version,
        task=features.task,
        complexity=features.complexity,
        confidence=selection.confidence,
        vector=stored_vector(features.vector),
        input_tokens=features.input_tokens,
        chosen=choice.model,
        propensity=choice.propensity,
        explored=selection.explored,
        qualified=table.models,
        weighed=table.numbers,
        removed={name: [*why] for name, why in selection.removed.items()} if selection.removed else {},
        reason=choice.reason,
        experiment_id=choice.experiment.id if choice.experiment else None,
        arm=choice.model if choice.experiment else None,
        unit=choice.unit,
        judged=selection.judged,
        judge_probability=selection.judge_probability,
        challenger=choice.challenger,
        challenger_propensity=choice.challenger_propensity,
    )


def _sample(call: Call, request: Request, finish_reason: str) -> Sample:
    return Sample(
        dialect=request.dialect,
        request=Raw(call.body),
        answer=call.answered.decode(errors="replace"),
        answer_is="text" if request.stream else "body",
        finish_reason=finish_reason,
    )


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


def _total_cost(attempts: Sequence[OpenAttempt]) -> int | None:
    costs = [attempt.cost_pico for attempt in attempts if attempt.cost_pico is not None]
    return sum(costs) if costs else None
