"""Compares what the vendors saw, what the callers got and what the ledger says: every difference is named."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from bench.storm.callers import Asked, number_in
from bench.storm.site import ANSWER
from gateway.conformance.vendors import LoggedCall
from tests.e2e.own_postgres import OwnPostgres

CLOCK_SLACK_S = 0.005  # both sides read the same clock, the vendor after the gateway
_WITHDRAWN = "not_sent"

_LINES = """
SELECT a.id::text, a.end_user, a.vendor_model, a.process_id::text, extract(epoch FROM a.started_at)::float8,
  coalesce(s.outcome, ''), coalesce(s.usage_source, ''), coalesce(s.error_code, ''),
  coalesce(s.input_tokens, 0), coalesce(s.cached_input_tokens, 0), coalesce(s.output_tokens, 0),
  coalesce(s.reasoning_tokens, 0), extract(epoch FROM s.settled_at)::float8
FROM billing_attempt a LEFT JOIN billing_settlement s ON s.attempt_id = a.id
WHERE starts_with(a.end_user, 'storm-') ORDER BY a.id
"""
_SPENT = """
SELECT b.name, b.cap, sum(p.spent), sum(p.held), coalesce(sum(lines.spent), 0)
FROM billing_budget b JOIN billing_budgetperiod p ON p.budget_id = b.id
LEFT JOIN LATERAL (
  SELECT sum(CASE b.metric WHEN 'usd' THEN coalesce(s.cost_usd, 0)
    WHEN 'requests' THEN CASE WHEN s.error_code = 'not_sent' THEN 0 ELSE a.held_requests END
    ELSE s.input_tokens + s.cached_input_tokens + s.output_tokens + s.reasoning_tokens END) AS spent
  FROM billing_attempt a JOIN billing_settlement s ON s.attempt_id = a.id WHERE p.id = ANY (a.budget_periods)
) lines ON true GROUP BY b.name, b.cap ORDER BY b.name
"""


@dataclass(frozen=True, slots=True)
class Line:
    """An attempt with its settlement. ``outcome`` is "" where there is none; times are seconds since 1970."""

    id: str
    end_user: str
    vendor_model: str
    process_id: str
    started_at: float
    outcome: str
    usage_source: str
    error_code: str
    input: int
    cached_input: int
    output: int
    reasoning: int
    settled_at: float | None

    @property
    def request(self) -> int:
        return int(self.end_user.removeprefix("storm-"))

    @property
    def tokens(self) -> int:
        return self.input + self.cached_input + self.output + self.reasoning

    @property
    def generated(self) -> int:
        """What the line says was generated at most: a hold does not tell its classes apart."""
        return self.tokens if self.outcome == "abandoned" else self.output + self.reasoning


@dataclass(frozen=True, slots=True)
class Balance:
    """A budget over all its periods; ``lines`` is what the ledger's lines come to."""

    name: str
    cap: Decimal
    spent: Decimal
    held: Decimal
    lines: Decimal


@dataclass(slots=True)
class Findings:
    """Counts, and under each list whatever contradicts a promise, a line of text each."""

    calls: int = 0
    faults: int = 0
    attempts: int = 0
    exact: int = 0
    estimated: int = 0
    abandoned: int = 0
    final_at: float = 0.0
    without_attempt: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    withdrawn_but_sent: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    out_of_bounds: list[str] = field(default_factory=list)
    not_said_to_be_estimated: list[str] = field(default_factory=list)
    abandoned_by_the_living: list[str] = field(default_factory=list)
    still_open: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)


def lines_of(postgres: OwnPostgres) -> list[Line]:
    return [Line(*row) for row in postgres.rows(_LINES)]


def balances_of(postgres: OwnPostgres) -> list[Balance]:
    return [Balance(*row) for row in postgres.rows(_SPENT)]


def compare(calls: Sequence[LoggedCall], lines: Sequence[Line], asked: Sequence[Asked], killed: set[str]) -> Findings:
    """``killed``: the ids of the processes that were."""
    by_number = {request.number: request for request in asked}
    found = Findings(calls=len(calls), attempts=len(lines))
    found.faults = sum(call.outcome != "answered" or not call.metered.usage_sent for call in calls)
    _note_lines(found, lines, killed)
    for call, line in _pairs(found, calls, lines):
        _compare_one(found, call, line, by_number[line.request])
    _note_deliveries(found, lines, asked)
    return found


def _note_lines(found: Findings, lines: Sequence[Line], killed: set[str]) -> None:
    for line in lines:
        if not line.outcome:
            found.still_open.append(f"{line.end_user}: attempt {line.id}")
        if line.outcome == "abandoned":
            found.abandoned += 1
            if line.process_id not in killed:
                found.abandoned_by_the_living.append(f"{line.end_user}: attempt {line.id}")
            if line.usage_source == "vendor":
                found.not_said_to_be_estimated.append(f"{line.end_user}: attempt {line.id}, abandoned")
    found.final_at = max((line.settled_at for line in lines if line.settled_at is not None), default=0.0)


def _pairs(found: Findings, calls: Sequence[LoggedCall], lines: Sequence[Line]) -> list[tuple[LoggedCall, Line]]:
    """Each call with its attempt: the last one of the same request and model that had begun before it."""
    attempts: defaultdict[tuple[int, str], list[Line]] = defaultdict(list)
    for line in lines:
        attempts[line.request, line.vendor_model].append(line)
    taken: set[str] = set()
    pairs = []
    for call in calls:
        number = number_in(call.body)
        before = [line for line in attempts[number, call.model] if line.started_at <= call.started_at + CLOCK_SLACK_S]
        if not before:
            found.without_attempt.append(f"storm-{number}: call {call.number} of {call.model}")
            continue
        line = max(before, key=lambda line: line.started_at)
        if line.id in taken:
            found.duplicates.append(f"storm-{number}: call {call.number} is the second of attempt {line.id}")
        else:
            taken.add(line.id)
            pairs.append((call, line))
    return pairs


def _compare_one(found: Findings, call: LoggedCall, line: Line, asked: Asked) -> None:
    metered = call.metered
    vendors = (metered.input, metered.cached_input, metered.output, metered.reasoning)
    ours = (line.input, line.cached_input, line.output, line.reasoning)
    described = f"{line.end_user} ({call.behaviour}, {'stream' if call.stream else 'whole'}, {line.outcome or 'open'})"
    if line.error_code == _WITHDRAWN:
        found.withdrawn_but_sent.append(described)
    elif line.usage_source == "vendor":
        found.exact += 1
        if vendors != ours:
            found.unequal.append(f"{described}: the vendor metered {vendors}, recorded are {ours}")
    elif line.outcome and line.outcome != "abandoned":
        found.estimated += 1
        if metered.usage_sent and not asked.hung_up:
            found.unequal.append(f"{described}: the vendor said {vendors}, recorded is an estimate, {ours}")
        if line.generated > call.generated_tokens:
            found.out_of_bounds.append(f"{described}: generated {call.generated_tokens}, recorded {line.generated}")


def _note_deliveries(found: Findings, lines: Sequence[Line], asked: Sequence[Asked]) -> None:
    recorded: defaultdict[int, int] = defaultdict(int)
    for line in lines:
        recorded[line.request] += line.generated
    for request in asked:
        if request.delivered_tokens > recorded[request.number]:
            found.out_of_bounds.append(
                f"storm-{request.number}: delivered {request.delivered_tokens}, recorded {recorded[request.number]}"
            )
        if request.complete and request.text != ANSWER:
            found.wrong_answers.append(f"storm-{request.number}: {request.text[-80:]!r} is said to be complete")
        if request.status >= 500 and request.status not in (502, 503, 504):
            found.wrong_answers.append(f"storm-{request.number}: status {request.status}")
