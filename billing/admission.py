"""From budgets and a target's price to an admission, or the refusal a caller is told."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from msgspec import Struct

from billing.budgets import BudgetFacts, Period, PeriodClock, PromptSizes, Reservation, Spender, holding, reserve
from billing.ledger import Admission
from billing.pricing import Price, Service, to_usd
from billing.windows import span_in_words
from gateway.errors import BudgetExceeded, GatewayError, LedgerUnavailable, QuotaExceeded

LONGEST_ANSWER = 16_384  # tokens, where neither the caller nor the model's row says less
UNITS = {"usd": "USD", "tokens": "tokens", "requests": "requests"}


class Demand(Struct, frozen=True):
    """What one request needs of its budgets, whichever target serves it. ``max_tokens`` is the caller's own limit;
    ``generates`` is False for operations without an answer in tokens."""

    budgets: Sequence[BudgetFacts]
    spender: Spender
    prompt_bound: int
    max_tokens: int | None
    choices: int = 1
    generates: bool = True


class Reserver:
    """One per process: remembers present periods, and how large prompts came out."""

    def __init__(self) -> None:
        self.sizes = PromptSizes()
        self._clock = PeriodClock()

    def reservation(
        self,
        demand: Demand,
        *,
        model_name: str,
        provider_name: str,
        circuit: str,
        price: Price | None,
        service: Service,
        max_output_tokens: int | None,
        first: bool,
    ) -> Reservation | None:
        """None where no budget holds. Raises PriceUnknown."""
        held = holding(demand.budgets, demand.spender, model_name, provider_name)
        if not held:
            return None
        now = time.time()
        bound = demand.prompt_bound
        return reserve(
            held,
            [self._clock.period(budget, subject, now) for budget, subject in held],
            price=price,
            input_tokens=bound,
            likely=self._likely(circuit, bound, price, priority=service.may_be_priority) if price else None,
            output_tokens=self._output_tokens(demand, max_output_tokens),
            choices=demand.choices,
            first=first,
            service=service,
        )

    def _likely(self, circuit: str, bound: int, price: Price, *, priority: bool) -> tuple[int, int]:
        """What is known of prompts is known by the standard price."""
        standard, _ = price.dearest(bound, priority=False)
        tokens, pico = self.sizes.likely(circuit, bound, bound * standard)
        if priority and price.priority is not None:
            dearest, _ = price.dearest(bound)
            pico = -(-pico * dearest // standard) if standard else bound * dearest
        return tokens, pico

    @staticmethod
    def _output_tokens(demand: Demand, max_output_tokens: int | None) -> int:
        if not demand.generates:
            return 0
        return demand.max_tokens or max_output_tokens or LONGEST_ANSWER


def refusal(admission: Admission, budgets: Sequence[BudgetFacts]) -> GatewayError:
    """What a caller is told who was not admitted by a budget. Amounts of the installation's are the operators' own."""
    period, asked = admission.period, admission.asked
    assert period is not None  # noqa: S101 - both verdicts name what had no room for what
    assert asked is not None  # noqa: S101
    budget = next(known for known in budgets if known.id == period.budget_id)
    if admission.verdict == "waiting":
        return LedgerUnavailable(
            f"What is left of the budget '{budget.name}' is held by requests that still run. Try again shortly.",
            retry_after_s=1.0,
        )
    resets_at = _resets_at(admission, period, budget)
    needed = _plain(_least_needed(asked, budget))
    amounts = {
        "cap": _plain(admission.cap),
        "spent": _plain(admission.spent),
        "left": _plain(max(admission.cap - admission.spent, Decimal(0))),
    }
    details = {
        "budget": budget.name,
        "scope": budget.scope,
        "subject": period.subject or None,
        "metric": budget.metric,
        **(amounts if budget.scope != "installation" else dict.fromkeys(amounts)),
        "needed": needed,
        "resets_at": resets_at,
    }
    when = _when(budget, resets_at)
    if budget.is_quota:
        message = (
            f"Your plan includes {_plain(admission.cap)} {UNITS[budget.metric]} a month, and they are used up. {when}"
        )
        retry_after_s = period.ends_at - time.time() if period.ends_at else None
        return QuotaExceeded(message.strip(), retry_after_s=retry_after_s, details=details)
    unit = UNITS[budget.metric]
    of_cap, room = (
        f" of {amounts['cap']} {unit}",
        f"{amounts['spent']} spent, {amounts['left']} {unit} left of {needed}",
    )
    if budget.scope == "installation":
        of_cap, room = "", f"{needed} {unit}"
    message = (
        f"The {budget.scope} budget '{budget.name}'{of_cap} leaves no room for this request: {room} needed. {when}"
    )
    return BudgetExceeded(message.strip(), details=details)


def _resets_at(admission: Admission, period: Period, budget: BudgetFacts) -> str | None:
    """When some of the budget is there again, ISO 8601; None where that will not be, or is not known."""
    at = datetime.fromtimestamp(period.ends_at, UTC) if period.ends_at else None
    if budget.window.kind == "rolling":
        oldest = admission.oldest_ends_at
        at = budget.window.leaves_at(datetime.fromtimestamp(oldest, UTC)) if oldest else None
    return at.isoformat() if at else None


def _when(budget: BudgetFacts, resets_at: str | None) -> str:
    if resets_at is None:
        return ""
    if budget.window.kind == "rolling" and budget.window.rolling_s:
        length = span_in_words(budget.window.rolling_s)
        return f"Of what was used within {length} the first is free again at {resets_at}."
    return f"It starts over at {resets_at}."


def _least_needed(asked: Reservation, budget: BudgetFacts) -> Decimal:
    """What a request has to find in a budget, in its metric: what its prompt probably comes to, and the shortest
    answer."""
    shortest = min(asked.output_tokens, 1)
    if budget.metric == "usd":
        return to_usd(asked.likely_pico + shortest * asked.output_pico)
    if budget.metric == "tokens":
        return Decimal(asked.likely_tokens + shortest * asked.choices)
    return Decimal(max(asked.requests, 1))  # a retry counts for none, and wants room for one


def _plain(amount: Decimal) -> str:
    return format(amount.normalize(), "f") if amount else "0"
