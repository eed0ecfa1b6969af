"""What an attempt has to reserve before a vendor is called: which budgets hold for it, and how much of them.

Nothing is decided here: PostgreSQL does that at admission, over all budgets of all attempts of a batch at once
(:mod:`billing.ledger`). What is held is the most the attempt can cost; what is left of it is back at settlement.
"""

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from billing.pricing import ANY_SERVICE, Price, Service
from billing.windows import Window
from gateway.errors import PriceUnknown
from gateway.wire.types import Needs, Usage

Metric = Literal["usd", "tokens", "requests"]
Scope = Literal["installation", "tenant", "project", "token", "user", "key", "model", "provider"]

EVERY = "*"
TARGETS_OWN: frozenset[Scope] = frozenset({"model", "provider"})  # another target may still have room

BYTES_PER_CHAR = 4  # the most UTF-8 needs; no tokenizer makes more tokens than bytes
TOKENS_PER_MESSAGE = 8  # roles and separators
TOKENS_PER_REQUEST = 32
TOKENS_FOR_TOOLS = 1024  # what vendors add to explain tools to a model
TOKENS_PER_IMAGE = 6000
_REMEMBERED_PERIODS = 50_000


class BudgetFacts(Struct, frozen=True):
    """A budget as the hot path knows it. ``subject`` is the id of a project or token, the name of an end user, key,
    model or provider, or ``*``; ``tenant_id`` is None for one of the installation's. Its cap is the database's."""

    id: str
    name: str
    tenant_id: str | None
    scope: Scope
    subject: str
    metric: Metric
    hard: bool
    window: Window
    is_quota: bool = False


class Spender(Struct, frozen=True):
    """Who asks, as budgets tell them apart."""

    project_id: str
    token_id: str
    end_user: str
    budget_key: str


class Period(Struct, frozen=True):
    """A budget's present period for one subject, as the database names it. Seconds since 1970; ``n`` is its number in
    the batch it is sent with."""

    id: str
    budget_id: str
    tenant_id: str | None
    subject: str
    starts_at: float
    ends_at: float | None
    rolling_s: int | None
    n: int = 0


class Reservation(Struct, frozen=True):
    """What an attempt asks of its budgets.

    ``input_tokens`` and ``input_pico`` are the most its prompt can come to, ``likely_tokens`` and ``likely_pico``
    what this vendor has counted for such prompts so far. Each of ``choices`` answers may have ``output_tokens``; one
    more token in all of them costs at most ``output_pico``. ``requests`` is 1 for the first attempt of a request.
    ``patient``: waits for what others hold and may give back.
    """

    periods: tuple[Period, ...]
    input_tokens: int
    input_pico: int
    likely_tokens: int
    likely_pico: int
    output_tokens: int
    output_pico: int
    choices: int
    requests: int
    patient: bool = True


class PeriodClock:
    """The present period of each budget and subject, worked out once per period."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Period] = OrderedDict()

    def period(self, budget: BudgetFacts, subject: str, now: float) -> Period:
        key = (budget.id, subject)
        known = self._known.get(key)
        if known is not None and known.starts_at <= now and (known.ends_at is None or now < known.ends_at):
            return known
        if len(self._known) >= _REMEMBERED_PERIODS:
            self._known.popitem(last=False)
        period = self._known[key] = period_of(budget, subject, datetime.fromtimestamp(now, UTC))
        return period


class PromptSizes:
    """What vendors counted for prompts, next to the most they could have been: by circuit, the highest share seen.

    The bound has to hold for any text, and is several times what texts come to. Where a cap leaves no room for that,
    the share decides whether the last few requests still fit (docs/adr/0007).
    """

    FEWEST = 5

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Share] = OrderedDict()

    def saw(self, circuit: str, bound: int, tokens: int, pico: int) -> None:
        """``tokens`` were counted, and cost ``pico``, of a prompt that could have been ``bound`` tokens."""
        share = self._seen.get(circuit)
        if share is None:
            if len(self._seen) >= _REMEMBERED_PERIODS:
                self._seen.popitem(last=False)
            share = self._seen[circuit] = _Share()
        share.count += 1
        if tokens * share.tokens_of > share.tokens * bound:
            share.tokens, share.tokens_of = tokens, bound
        if pico * share.pico_of > share.pico * bound:
            share.pico, share.pico_of = pico, bound

    def likely(self, circuit: str, bound: int, bound_pico: int) -> tuple[int, int]:
        """Tokens and pico-USD that a prompt of at most ``bound`` tokens probably comes to, never more than that."""
        share = self._seen.get(circuit)
        if share is None or share.count < self.FEWEST:
            return bound, bound_pico
        tokens = -(-bound * share.tokens // share.tokens_of)
        pico = -(-bound * share.pico // share.pico_of)
        return min(tokens, bound), min(pico, bound_pico)


class _Share:
    """The highest of each ratio, kept as the two whole numbers it is made of."""

    __slots__ = ("count", "pico", "pico_of", "tokens", "tokens_of")

    def __init__(self) -> None:
        self.count = self.tokens = self.pico = 0
        self.tokens_of = self.pico_of = 1


def holding(
    budgets: Iterable[BudgetFacts], spender: Spender, model_name: str, provider_name: str
) -> list[tuple[BudgetFacts, str]]:
    """The budgets that hold for an attempt, each with the subject it counts for ("": one count for all)."""
    named = {
        "project": spender.project_id,
        "token": spender.token_id,
        "user": spender.end_user,
        "key": spender.budget_key,
        "model": model_name,
        "provider": provider_name,
    }
    found = []
    for budget in budgets:
        if budget.scope in ("tenant", "installation"):
            found.append((budget, ""))
        elif (subject := named[budget.scope]) and budget.subject in (subject, EVERY):
            found.append((budget, subject if budget.subject == EVERY else ""))
    return found


def reserve(
    held: Sequence[tuple[BudgetFacts, str]],
    periods: Sequence[Period],
    *,
    price: Price | None,
    input_tokens: int,
    likely: tuple[int, int] | None,
    output_tokens: int,
    choices: int,
    first: bool,
    service: Service = ANY_SERVICE,
) -> Reservation:
    """What an attempt at this price has to ask of its budgets. ``likely`` are tokens and pico-USD of its prompt;
    ``service`` is what the vendor is asked for.

    Raises PriceUnknown where a hard budget in USD holds: what has no price cannot be kept within one.
    """
    if any(budget.metric == "usd" and budget.hard for budget, _ in held):
        _refuse_without_price(price, service)
    input_pico, output_pico = price.dearest(input_tokens, priority=service.may_be_priority) if price else (0, 0)
    per_request = price.per_request if price else 0
    bound_pico = input_tokens * input_pico
    likely_tokens, likely_pico = likely or (input_tokens, bound_pico)
    return Reservation(
        periods=tuple(periods),
        input_tokens=input_tokens,
        input_pico=bound_pico + per_request,
        likely_tokens=likely_tokens,
        likely_pico=min(likely_pico, bound_pico) + per_request,
        output_tokens=output_tokens,
        output_pico=output_pico * choices,
        choices=choices,
        requests=int(first),
    )


def _refuse_without_price(price: Price | None, service: Service) -> None:
    if price is None:
        raise PriceUnknown("The price of this model is not known, so it cannot be kept within a budget.", param="model")
    if not price.covers(service.tier):
        raise PriceUnknown(
            f"What this model costs with the '{service.field}' you ask for is not known, so it cannot be kept within a "
            "budget.",
            param=service.field,
        )


def prompt_bound(body: bytes, input_chars: int, needs: Needs) -> int:
    """The most tokens a prompt can come to, whatever the vendor's tokenizer."""
    plain = body.isascii() and b"\\u" not in body
    tokens = input_chars if plain else input_chars * BYTES_PER_CHAR
    tokens += TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * body.count(b'"role"')
    if needs.tools:
        tokens += TOKENS_FOR_TOOLS
    if needs.vision:
        tokens += TOKENS_PER_IMAGE * body.count(b'"image')
    if needs.files or needs.audio:
        tokens += len(body) // 8
    return tokens


def without_output(usage: Usage) -> Usage:
    """The prompt's part of a usage."""
    return Usage(
        input=usage.input,
        cached_input=usage.cached_input,
        cache_write_5m=usage.cache_write_5m,
        cache_write_1h=usage.cache_write_1h,
        audio_input=usage.audio_input,
    )


def period_of(budget: BudgetFacts, subject: str, now: datetime) -> Period:
    """The period of ``budget`` that ``now`` is in, under the name every process gives it."""
    start, end = budget.window.period(now)
    return Period(
        id=str(period_id(budget.id, subject, start)),
        budget_id=budget.id,
        tenant_id=budget.tenant_id,
        subject=subject,
        starts_at=start.timestamp(),
        ends_at=end.timestamp() if end else None,
        rolling_s=budget.window.rolling_s if budget.window.kind == "rolling" else None,
    )


def period_id(budget_id: str, subject: str, start: datetime) -> uuid.UUID:
    """Derived, so that processes agree on it without asking; marked as a UUID of an own scheme (version 8)."""
    digest = hashlib.blake2b(f"{budget_id}\0{subject}\0{int(start.timestamp())}".encode(), digest_size=16).digest()
    number = int.from_bytes(digest)
    number = number & ~(0xF << 76) | (8 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return uuid.UUID(int=number)
