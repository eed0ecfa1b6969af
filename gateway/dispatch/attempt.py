"""One call of one vendor, from admission to settlement, and the request it belongs to."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import uuid_utils
from msgspec import Struct, field

from billing.admission import Demand, Reserver, refusal
from billing.budgets import Reservation, without_output
from billing.estimates import tokens_by_length
from billing.ledger import Ledger, NewAttempt, NewSettlement
from billing.pricing import Price, Service
from gateway import observability
from gateway.dispatch.service_tiers import asked_service
from gateway.errors import GatewayError, GatewayTimeout, ProviderError
from gateway.observability import AttemptFacts, TokenClass
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.wire.output_cap import with_output_cap
from gateway.wire.types import Request, Usage

Purpose = Literal["serve", "retry", "fallback", "hedge", "rescue", "shadow", "judge", "replay", "classify"]

NOTHING_USED = Usage()
UNKNOWN_USE = Usage(source="estimated")  # of a vendor that went silent nobody can be sure


class StalePolicy(Exception):
    """The tenant's policy changed since it was loaded; nothing was admitted, nothing was sent."""


class PassedOver(Struct, eq=False):
    """A target that was not asked, and for how many seconds it should be left alone."""

    target: Target
    why: Literal["circuit_open", "rate_limited"]
    for_s: float


class Job(Struct, eq=False):
    """One request on its way to a vendor: who asks (for the ledger), what, and the targets in order.

    ``timeout_s`` is the caller's own limit for all of it, in seconds from ``started`` (``time.perf_counter()``);
    ``demand`` is what it needs of budgets (None: the tenant has none); ``task`` and ``complexity`` are for the ledger;
    ``purpose`` is that of its first attempt;
    ``attempts`` and ``passed_over`` fill up as targets are tried, and ``untried`` empties.
    """

    request: Request
    request_id: str
    tenant_id: str
    policy_epoch: int
    project_id: str
    token_id: str | None
    targets: Sequence[Target]
    timeout_s: float | None = None
    hedging: bool = False
    demand: Demand | None = None
    task: str = ""
    complexity: str = ""
    purpose: Purpose = "serve"
    started: float = field(default_factory=time.perf_counter)
    attempts: "list[OpenAttempt]" = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)
    served: "OpenAttempt | None" = None
    untried: deque[Target] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.untried.extend(self.targets)

    def go_first_to(self, targets: Sequence[Target]) -> None:
        """Another order, before any has been tried."""
        self.targets = targets
        self.untried = deque(targets)

    def purpose_of(self, further: Purpose) -> Purpose:
        """Of a further attempt: of calls that the gateway makes by itself every one has the purpose of the first."""
        return further if self.purpose == "serve" else self.purpose

    @property
    def fallback_used(self) -> bool:
        """Whether another target than the first answers."""
        return self.served is not None and self.served.target is not self.targets[0]

    def input_estimate(self) -> int:
        """Tokens of the prompt, for what no vendor has counted."""
        return tokens_by_length(self.request.input_chars)

    def deadlines(self, target: Target) -> Deadlines:
        """What is left for one more call, by the target's limits and the caller's. Raises GatewayTimeout."""
        limits = target.deadlines
        total = limits.total
        if self.timeout_s is not None:
            total = min(total, self.started + self.timeout_s - time.perf_counter())
            if total <= 0:
                raise GatewayTimeout("No provider answered within the time you allowed.")
        first_byte = min(limits.first_byte, limits.first_token) if self.request.stream else limits.first_byte
        if total == limits.total and first_byte == limits.first_byte:
            return limits
        return Deadlines(
            connect=min(limits.connect, total),
            first_byte=min(first_byte, total),
            first_token=min(limits.first_token, total),
            between_chunks=min(limits.between_chunks, total),
            total=total,
        )

    def described_attempts(self) -> list[dict[str, Any]]:
        """What may be shown of the attempts, and of the targets that were passed over."""
        told = [attempt.describe() for attempt in self.attempts]
        told += [
            {"provider": passed.target.provider_name, "model": passed.target.model_name, "outcome": passed.why}
            for passed in self.passed_over
        ]
        return told


class OpenAttempt:
    """One call of one vendor. Settles once; later calls change nothing.

    ``output_cap`` is how many tokens its answer may have where a budget holds for it.
    Raises GatewayTimeout when the caller's own time is over before it begins.
    """

    __slots__ = (
        "_held",
        "_job",
        "_ledger",
        "_reserver",
        "cost_pico",
        "deadlines",
        "error",
        "first_token_at",
        "id",
        "outcome",
        "output_cap",
        "purpose",
        "started",
        "target",
        "usage",
        "vendor_s",
    )

    def __init__(self, job: Job, target: Target, ledger: Ledger, reserver: Reserver, purpose: Purpose) -> None:
        self._job, self._ledger, self._reserver = job, ledger, reserver
        self.target, self.purpose = target, purpose
        self.deadlines = job.deadlines(target)
        self.id = str(uuid_utils.uuid7())
        self._held = False
        self.started = time.perf_counter()
        self.vendor_s = 0.0
        self.first_token_at: float | None = None
        self.outcome: str | None = None
        self.error: GatewayError | None = None
        self.cost_pico: int | None = None
        self.output_cap: int | None = None
        self.usage = NOTHING_USED

    async def admit(self, patience_s: float) -> None:
        """Commit the row. Raises StalePolicy, or LedgerUnavailable, BudgetExceeded, QuotaExceeded or PriceUnknown; then
        nothing may be sent. For room in a budget it waits ``patience_s`` seconds at most."""
        job, target = self._job, self.target
        price = self._price
        reservation = self._reservation()
        self._held = reservation is not None
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
                purpose=self.purpose,
                provider_id=target.provider_id,
                provider_key_id=target.provider_key_id,
                model_id=target.model_id,
                vendor_model=target.vendor_model,
                price_version_id=price.version_id if price else None,
                started_at=time.time(),
                discount_bp=price.discount_bp if price else 0,
                task_type=job.task,
                complexity=job.complexity,
                reservation=reservation,
            ),
            min(patience_s, self.deadlines.total),
            self._reservation,
        )
        if admission.verdict == "stale":
            raise StalePolicy
        if admission.verdict != "admitted":
            assert job.demand is not None  # noqa: S101 - only a budget refuses
            raise refusal(admission, job.demand.budgets)
        if reservation is not None and job.demand is not None and job.demand.generates:
            self.output_cap = admission.output_tokens
        job.attempts.append(self)
        self.started = time.perf_counter()

    def settle(self, outcome: str, usage: Usage, error: GatewayError | None = None) -> None:
        if self.outcome is not None:
            return
        self.outcome, self.error, self.usage = outcome, error, usage
        price = self._price
        # Where a budget counts on it, a tier without a price is charged what is known rather than nothing.
        if price is not None and not (self._held or price.covers(usage.service_tier)):
            price = None
        self.cost_pico = _cost(price, outcome, usage) if price else None
        if self._job.demand is not None and usage.source == "vendor" and usage.total_input:
            prompt = without_output(usage)
            prompt_pico = price.cost(prompt) - price.per_request if price else 0
            self._reserver.sizes.saw(
                self.target.circuit, self._job.demand.prompt_bound, prompt.total_input, prompt_pico
            )
        observability.attempt_done(
            AttemptFacts(
                kind=self.target.kind,
                purpose=self.purpose,
                outcome=outcome,
                tokens=_counted(usage),
                cost_usd=None if self.cost_pico is None else self.cost_pico / 1e12,
            )
        )
        self._ledger.settle(
            NewSettlement(
                attempt_id=self.id,
                tenant_id=self._job.tenant_id,
                outcome=outcome,
                usage=usage,
                cost_pico=self.cost_pico,
                price_version_id=price.version_id if price else None,
                status_code=vendor_status(error),
                error_code=error_code(error),
                first_token_at=self.first_token_at,
                ended_at=time.time(),
            )
        )

    def _reservation(self) -> Reservation | None:
        """What it asks of budgets, by what is known now. Raises PriceUnknown."""
        job, target = self._job, self.target
        if job.demand is None:
            return None
        return self._reserver.reservation(
            job.demand,
            model_name=target.model_name,
            provider_name=target.provider_name,
            circuit=target.circuit,
            price=self._price,
            service=self._service(),
            max_output_tokens=target.max_output_tokens,
            first=not job.attempts,
        )

    def _service(self) -> Service:
        """What the vendor is asked for; a rescue may have to ask in other words than the caller's."""
        return asked_service(self._job.request, self.target, reworded=self.purpose == "rescue")

    @property
    def admitted(self) -> bool:
        return self in self._job.attempts

    @property
    def request(self) -> Request:
        """What the vendor is asked: the caller's request, within what its budgets leave for the answer."""
        return self.within_cap(self._job.request)

    def within_cap(self, request: Request) -> Request:
        cap = self.output_cap
        if cap is None or (request.max_tokens is not None and request.max_tokens <= cap):
            return request
        return with_output_cap(request, cap)

    @property
    def _price(self) -> Price | None:
        return self.target.price if isinstance(self.target.price, Price) else None

    def unseen_usage(self) -> Usage:
        """The prompt was sent and nothing came back before the caller left."""
        return Usage(input=self._job.input_estimate(), source="estimated")

    def describe(self) -> dict[str, Any]:
        """What may be shown of it in the metadata and in errors."""
        told: dict[str, Any] = {
            "provider": self.target.provider_name,
            "model": self.target.model_name,
            "purpose": self.purpose,
            "outcome": self.outcome or "serving",
        }
        if self.error is not None:
            told["error"] = error_code(self.error)
            if (status := vendor_status(self.error)) is not None:
                told["status"] = status
        return told


def _counted(usage: Usage) -> tuple[tuple[TokenClass, int], ...]:
    """The classes that occur, for the metrics."""
    written = usage.cache_write_5m + usage.cache_write_1h
    classes: tuple[tuple[TokenClass, int], ...] = (
        ("input", usage.input + usage.audio_input),
        ("cached_input", usage.cached_input),
        ("cache_write", written),
        ("output", usage.output + usage.audio_output),
        ("reasoning", usage.reasoning),
    )
    return tuple([counted for counted in classes if counted[1]])


def _cost(price: Price, outcome: str, usage: Usage) -> int:
    """A call that got nothing costs nothing, whatever a price takes per call."""
    return price.cost(usage) if outcome == "settled" or usage.total_input or usage.total_output else 0


def failed_usage(error: GatewayError) -> Usage:
    """A vendor that answered with a refusal bills nothing."""
    return UNKNOWN_USE if isinstance(error, ProviderError) and not error.vendor_status else NOTHING_USED


def completed_by_estimate(seen: Usage, input_tokens: int, generated: int) -> Usage:
    """What a vendor said of a stream that it never finished counting, made good by what was seen of it."""
    return msgspec.structs.replace(
        seen,
        input=seen.input if seen.total_input else input_tokens,
        output=max(seen.output, generated - seen.reasoning),
        source="estimated",
    )


def vendor_status(error: GatewayError | None) -> int | None:
    """The HTTP status to write down for a call that ended like that; None: none came."""
    if error is None:
        return 200
    return error.vendor_status if isinstance(error, ProviderError) else error.status


def error_code(error: GatewayError | None) -> str:
    """The word the ledger keeps for it; "" for success."""
    if error is None:
        return ""
    return f"provider_{error.kind}" if isinstance(error, ProviderError) else error.code
