"""Proves that the ledger is what it claims to be, and names what is not.

Every check looks at one snapshot of the database, so a running gateway cannot make sums disagree. Costs are computed
again, line by line, in constant memory; everything else is set-based SQL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from django.db import connection, transaction
from django.db.models import F, Q
from msgspec import structs

from billing.models import GatewayProcess, PriceVersion, Settlement
from billing.pricing import Price, to_usd
from gateway.rows import first_id
from gateway.wire.types import TOKEN_CLASSES, Usage
from tenants.models import Tenant

Severity = Literal["violation", "warning"]
MOST_EXAMPLES: Final = 20
REAPED_WITHIN: Final = timedelta(seconds=120)
_ADMITTED_BEFORE_A_PERIOD: Final = timedelta(hours=1)  # as far as an attempt's clock may be behind its period's start
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_ROWS_AT_A_TIME: Final = 2000

_TOKENS: Final = tuple(f"{name}_tokens" for name in TOKEN_CLASSES)
USAGE_COLUMNS: Final = (*_TOKENS, "service_tier")
"""Of a settlement: what :func:`usage_of` reads."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found wrong: how often, and some of it, a line each."""

    check: str
    severity: Severity
    count: int
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Proof:
    """The names of the checks that were made, how many costs were computed again, and what is wrong."""

    checks: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    recomputed: int = 0

    @property
    def holds(self) -> bool:
        return not any(finding.severity == "violation" for finding in self.findings)


_SUMS: Final = "a budget's period is the sum of its lines"
_COSTS: Final = "a cost is its price times its tokens"

# What checks look at; a part that a check does not name costs it nothing.
_PARTS: Final = """
WITH settlement AS NOT MATERIALIZED (
  SELECT s.*, s.input_tokens + s.cached_input_tokens + s.cache_write_5m_tokens + s.cache_write_1h_tokens
    + s.output_tokens + s.reasoning_tokens + s.audio_input_tokens + s.audio_output_tokens AS tokens
  FROM billing_settlement s
  WHERE (%(tenant)s::uuid IS NULL OR s.tenant_id = %(tenant)s) AND s.attempt_id >= %(first)s),
attempt AS NOT MATERIALIZED (
  SELECT a.* FROM billing_attempt a
  WHERE (%(tenant)s::uuid IS NULL OR a.tenant_id = %(tenant)s) AND a.id >= %(first)s),
line AS NOT MATERIALIZED (
  SELECT named.id AS period_id, amounts.metric,
    coalesce(sum(amounts.spent) FILTER (WHERE s.attempt_id IS NOT NULL), 0) AS spent,
    coalesce(sum(amounts.held) FILTER (WHERE s.attempt_id IS NULL), 0) AS held
  FROM attempt a CROSS JOIN unnest(a.budget_periods) named(id)
  LEFT JOIN settlement s ON s.attempt_id = a.id,
  LATERAL (VALUES
    ('usd', coalesce(s.cost_usd, 0), coalesce(a.held_usd, 0)),
    ('tokens', s.tokens::numeric, coalesce(a.held_tokens, 0)::numeric),
    ('requests', CASE WHEN s.error_code = 'not_sent' THEN 0 ELSE a.held_requests END::numeric,
      a.held_requests::numeric)) amounts(metric, spent, held)
  GROUP BY 1, 2)
"""

# Each gives what it is about and what is wrong with it, as two texts; no rows: all is well.
_CHECKS: Final[dict[str, tuple[Severity, str]]] = {
    "a settlement has an attempt of the same tenant": (
        "violation",
        """SELECT s.attempt_id::text, CASE WHEN a.id IS NULL THEN 'there is no such attempt' ELSE
             concat('settled for tenant ', coalesce(s.tenant_id::text, 'none'), ', made by ',
               coalesce(a.tenant_id::text, 'none')) END
           FROM settlement s LEFT JOIN billing_attempt a ON a.id = s.attempt_id
           WHERE a.id IS NULL OR a.tenant_id IS DISTINCT FROM s.tenant_id""",
    ),
    "an attempt is settled at most once": (
        "violation",
        """SELECT s.attempt_id::text, concat(count(*), ' settlements') FROM settlement s
           GROUP BY s.attempt_id HAVING count(*) > 1""",
    ),
    "nothing is negative": (
        "violation",
        """SELECT s.attempt_id::text, 'tokens, cost or savings below 0' FROM settlement s
           WHERE least(s.input_tokens, s.cached_input_tokens, s.cache_write_5m_tokens, s.cache_write_1h_tokens,
             s.output_tokens, s.reasoning_tokens, s.audio_input_tokens, s.audio_output_tokens, s.cost_usd,
             s.saved_usd) < 0""",
    ),
    "a vendor's refusal costs nothing": (
        "violation",
        """SELECT s.attempt_id::text, concat('status ', s.status_code, ', cost ', s.cost_usd) FROM settlement s
           WHERE s.outcome = 'failed' AND s.status_code BETWEEN 400 AND 499 AND starts_with(s.error_code, 'provider_')
             AND s.first_token_at IS NULL AND s.cost_usd > 0""",
    ),
    "what has a cost names its price": (
        "violation",
        """SELECT s.attempt_id::text, CASE WHEN s.cost_usd IS NULL THEN 'a price, but no cost'
             ELSE concat('cost ', s.cost_usd, ', but no price') END
           FROM settlement s
           WHERE s.outcome <> 'abandoned' AND (s.cost_usd IS NULL) <> (s.price_version_id IS NULL)
             AND s.cost_usd IS DISTINCT FROM 0""",
    ),
    "an abandoned attempt costs what was held": (
        "violation",
        """SELECT s.attempt_id::text, concat('cost ', s.cost_usd, ', held ', a.held_usd)
           FROM settlement s JOIN attempt a ON a.id = s.attempt_id
           WHERE s.outcome = 'abandoned' AND s.cost_usd IS DISTINCT FROM a.held_usd
             AND (a.held_usd IS NOT NULL OR s.cost_usd <> 0)""",
    ),
    "an open attempt belongs to a living process": (
        "violation",
        """SELECT a.id::text,
             concat('open since ', a.started_at, ', its process ', a.process_id, ' has no heartbeat')
           FROM attempt a
           WHERE a.id < %(overdue)s
             AND NOT EXISTS (SELECT FROM billing_settlement s WHERE s.attempt_id = a.id)
             AND NOT EXISTS (
               SELECT FROM billing_gatewayprocess p
               WHERE p.id = a.process_id AND p.heartbeat_at >= %(lost_before)s)""",
    ),
    "an attempt is counted in periods of its own tenant": (
        "violation",
        """SELECT a.id::text, concat('names period ', p.id, ' of tenant ', p.tenant_id)
           FROM attempt a, unnest(a.budget_periods) named(id), billing_budgetperiod p
           WHERE p.id = named.id AND p.tenant_id IS NOT NULL AND p.tenant_id IS DISTINCT FROM a.tenant_id""",
    ),
    _SUMS: (
        "violation",
        """SELECT concat(b.name, ' ', p.subject, ' from ', p.starts_at, ' (', p.id, ')'),
             concat('spent ', p.spent, ', the lines say ', coalesce(line.spent, 0), '; held ', p.held,
               ', the lines say ', coalesce(line.held, 0))
           FROM billing_budgetperiod p JOIN billing_budget b ON b.id = p.budget_id
           LEFT JOIN line ON line.period_id = p.id AND line.metric = b.metric
           WHERE (p.spent <> coalesce(line.spent, 0) OR p.held <> coalesce(line.held, 0))
             AND p.starts_at >= %(since)s AND (%(tenant)s::uuid IS NULL OR p.tenant_id = %(tenant)s)""",
    ),
    "the request log agrees with the ledger": (
        "warning",
        """SELECT r.id::text, concat('logged ', r.cost_usd, ', the ledger says ', lines.cost)
           FROM gateway_requestlog r JOIN (
             SELECT a.request_id, sum(s.cost_usd) AS cost
             FROM attempt a LEFT JOIN billing_settlement s ON s.attempt_id = a.id
             WHERE a.purpose IN ('serve', 'retry', 'fallback', 'rescue', 'hedge')
             GROUP BY a.request_id
             HAVING bool_and(s.attempt_id IS NOT NULL AND s.outcome <> 'abandoned')) lines ON lines.request_id = r.id
           WHERE coalesce(r.cost_usd, 0) <> coalesce(lines.cost, 0)""",
    ),
}


def verify(
    *,
    tenant: Tenant | None = None,
    since: datetime | None = None,
    now: datetime | None = None,
) -> Proof:
    """Prove the ledger's invariants: of everything, or of a tenant's lines, or of lines and periods from ``since`` on.

    A period can only be proven while all of its lines are kept.
    """
    now = now or datetime.now(UTC)
    since = since or _EPOCH
    bounds = {
        "tenant": tenant.pk if tenant else None,
        "since": since,
        "first": first_id(since),
        "overdue": first_id(now - REAPED_WITHIN),
        "lost_before": now - GatewayProcess.LOST_AFTER,
    }
    findings: list[Finding] = []
    with _one_snapshot():
        for name, (severity, query) in _CHECKS.items():
            findings += _findings(name, severity, query, bounds)
        wrong = Wrong()
        recomputed = sum(1 for _ in _recompute(tenant, since, wrong))
    if wrong.count:
        findings.append(Finding(_COSTS, "violation", wrong.count, wrong.examples))
    return Proof([*_CHECKS, _COSTS], findings, recomputed)


@dataclass(slots=True)
class Wrong:
    """Counts what is wrong and keeps the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(text)


def usage_of(values: dict[str, Any]) -> Usage:
    """What a settlement of these columns used, as far as its price depends on it."""
    counts = {name: values[f"{name}_tokens"] for name in TOKEN_CLASSES}
    return Usage(**counts, service_tier=values["service_tier"])


def is_charged(values: dict[str, Any]) -> bool:
    """Whether a settlement of these columns has to cost what its tokens cost.

    A refusal, a call that was never sent and an answer from the cache cost nothing, whatever a price takes per call.
    What was abandoned costs what was held for it.
    """
    if values["outcome"] == Settlement.Outcome.ABANDONED:
        return False
    if values["outcome"] == Settlement.Outcome.SETTLED:
        return not values["saved_usd"]
    return any(values[column] for column in _TOKENS)


def _recompute(tenant: Tenant | None, since: datetime, wrong: Wrong) -> Iterator[None]:
    """Compare the cost of every priced line; yields once for each."""
    prices: dict[Any, Price] = {}
    lines = Settlement.objects.filter(~Q(price_version=None), ~Q(cost_usd=None), attempt_id__gte=first_id(since))
    if tenant is not None:
        lines = lines.filter(tenant=tenant)
    rows = lines.order_by("attempt_id").values(
        "attempt_id", "tenant_id", "outcome", "cost_usd", "saved_usd", "price_version_id", *USAGE_COLUMNS,
        discount_bp=F("attempt__discount_bp"),
    )  # fmt: skip
    for row in rows.iterator(chunk_size=_ROWS_AT_A_TIME):
        version = row["price_version_id"]
        if version not in prices:
            prices[version] = PriceVersion.objects.get(pk=version).as_priced_version().price
        price = structs.replace(prices[version], discount_bp=row["discount_bp"])
        due = to_usd(price.cost(usage_of(row)) if is_charged(row) else 0)
        if row["outcome"] != Settlement.Outcome.ABANDONED and row["cost_usd"] != due:
            wrong.add(f"{row['attempt_id']}: costs {row['cost_usd']:f}, by its price {due:f}")
        yield


def _findings(name: str, severity: Severity, query: str, bounds: dict[str, Any]) -> list[Finding]:
    if name == _SUMS:
        earliest = max(bounds["since"] - _ADMITTED_BEFORE_A_PERIOD, _EPOCH)
        bounds = bounds | {"first": first_id(earliest)}
    counted = "SELECT count(*) OVER (), subject, detail FROM (" + query + ") wrong(subject, detail) LIMIT %(most)s"  # noqa: S608 - all constants
    with connection.cursor() as cursor:
        cursor.execute(_PARTS + counted, bounds | {"most": MOST_EXAMPLES})
        rows = cursor.fetchall()
    if not rows:
        return []
    return [Finding(name, severity, rows[0][0], [f"{subject}: {detail}" for _, subject, detail in rows])]


@contextmanager
def _one_snapshot() -> Iterator[None]:
    """A transaction that sees the database as it is now; inside another one, as that sees it."""
    begins = not connection.in_atomic_block
    with transaction.atomic():
        if begins:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
