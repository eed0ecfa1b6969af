"""Moving a cell to a cheaper model: only when it is not worse, step by step, and back at the first certain harm."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from routing.evaluation import Comparison
from routing.experiments.assignment import place_of
from routing.experiments.guards import Guard, Metric, breaches
from routing.experiments.sequential import Standing
from routing.experiments.totals import ArmTotals

CHEAPER_BY = 0.20
NOT_WORSE_BY = 0.02
LEAST_EFFECTIVE = 100.0
STEPS = (5, 25, 50, 100)

RAMP_GUARDS = (
    Guard(Metric.COST, worst_relative=0.0),
    Guard(Metric.ERRORS, worst_absolute=0.02),
    Guard(Metric.REFUSALS, worst_absolute=0.02),
    Guard(Metric.P95, worst_relative=0.5),
)


@dataclass(frozen=True, slots=True)
class QualityGap:
    """Quality of the successor less that of the current model, with its 95 % bounds, and what it rests on.

    ``effective_sample_size`` counts labels, or pairs.
    """

    estimate: float
    low: float
    high: float
    effective_sample_size: float
    source: Literal["doubly robust", "paired"]

    @classmethod
    def of_comparison(cls, comparison: Comparison) -> "QualityGap":
        """From logged requests; policy a is the successor, b the current model."""
        gap = comparison.difference
        return cls(gap.value, gap.low, gap.high, comparison.effective_sample_size, "doubly robust")

    @classmethod
    def of_standing(cls, standing: Standing) -> "QualityGap":
        """From shadow pairs; the current model is the control."""
        return cls(standing.estimate, standing.low, standing.high, standing.pairs, "paired")


@dataclass(frozen=True, slots=True)
class Alternative:
    """A model that could take over. USD per 1,000 of the cell's requests."""

    model: str
    cost_per_1000: float
    gap: QualityGap


@dataclass(frozen=True, slots=True)
class CellFacts:
    """A cell that one model mostly answers, and what could. ``requests`` of the last 30 days."""

    task: str
    complexity: str
    current: str
    cost_per_1000: float
    requests: int
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A migration worth beginning. ``cheaper_by`` is a share (0-1); ``expected_saving_usd`` is for 30 days."""

    task: str
    complexity: str
    current: str
    successor: str
    cheaper_by: float
    gap: QualityGap
    expected_saving_usd: float
    reason: str


def propose(
    cell: CellFacts,
    *,
    cheaper_by: float = CHEAPER_BY,
    not_worse_by: float = NOT_WORSE_BY,
    least_effective: float = LEAST_EFFECTIVE,
) -> Candidate | None:
    """The cheapest model that is known well enough not to be worse than the current one; None without any."""
    fit = [
        one
        for one in cell.alternatives
        if one.model != cell.current
        and one.cost_per_1000 <= cell.cost_per_1000 * (1 - cheaper_by)
        and one.gap.low >= -not_worse_by
        and one.gap.effective_sample_size >= least_effective
    ]
    if not fit or cell.cost_per_1000 <= 0:
        return None
    best = min(fit, key=lambda one: (one.cost_per_1000, -one.gap.estimate, one.model))
    saved = cell.cost_per_1000 - best.cost_per_1000
    share = saved / cell.cost_per_1000
    reason = (
        f"{best.model} costs {share:.0%} less than {cell.current} and differs in quality by {best.gap.estimate:+.3f} "
        f"({best.gap.low:+.3f} to {best.gap.high:+.3f}; {best.gap.source}, "
        f"{best.gap.effective_sample_size:.0f} effective labels)"
    )
    saving = saved * cell.requests / 1_000
    return Candidate(cell.task, cell.complexity, cell.current, best.model, share, best.gap, saving, reason)


@dataclass(frozen=True, slots=True)
class RampRules:
    """What each step takes. A step that cannot be decided within ``longest_days`` is rolled back."""

    steps: tuple[int, ...] = STEPS
    least_requests: int = 100
    least_labels: int = 20
    least_hours: float = 24.0
    longest_days: float = 21.0
    worse_by: float = NOT_WORSE_BY
    looks_worse_by: float = 0.05
    guards: tuple[Guard, ...] = RAMP_GUARDS


@dataclass(frozen=True, slots=True)
class RampEvidence:
    """What was seen since the last step: requests that stayed (control) and that moved, and judgements of both.

    At 100 % nothing stays: give what the current model did before. ``gap`` is None while nothing was judged.
    """

    control: ArmTotals
    moved: ArmTotals
    gap: QualityGap | None
    hours: float


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with a ramp. ``percent`` is what it has then; ``done`` says that the last step held."""

    action: Literal["advance", "hold", "roll_back"]
    percent: int
    reason: str
    done: bool = False


def next_step(percent: int, evidence: RampEvidence, rules: RampRules | None = None) -> Step:
    """What follows on what was seen since the ramp got its present percentage. May be asked as often as one likes."""
    rules = rules or RampRules()
    harm = _harm(evidence, rules)
    if harm:
        return Step("roll_back", 0, harm)
    missing = _missing(evidence, rules)
    if missing and evidence.hours < rules.longest_days * 24:
        return Step("hold", percent, missing)
    if missing:
        return Step("roll_back", 0, f"after {evidence.hours / 24:.0f} days still {missing}")
    told = f"no harm over {evidence.moved.requests} requests in {evidence.hours:.0f} hours"
    higher = [step for step in rules.steps if step > percent]
    if not higher:
        return Step("hold", percent, f"{told}: the successor has taken over", done=True)
    return Step("advance", higher[0], told)


def in_ramp(ramp_id: str, key: str, percent: int) -> bool:
    """Whether a session or user takes part. Whoever does at some percentage does at any higher one."""
    return place_of(ramp_id, key) * 100 < percent


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """Settled requests and what they cost in USD, as the ledger has it."""

    requests: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Saving:
    """What was saved in USD (below 0: lost), and as a share of what the requests would have cost; None of nothing."""

    usd: Decimal
    share: Decimal | None


def saving(control: LedgerTotals, moved: LedgerTotals) -> Saving:
    """What the moved requests cost less than as many of the control, the same cell's at the same time; at 100 %, of the
    time before. Nothing is claimed without a control."""
    if not control.requests or not moved.requests:
        return Saving(Decimal(0), None)
    without = control.cost_usd * moved.requests / control.requests
    return Saving(without - moved.cost_usd, (1 - moved.cost_usd / without) if without else None)


def total_saving(periods: Sequence[tuple[LedgerTotals, LedgerTotals]]) -> Decimal:
    """Savings of (control, moved) of many periods, each compared within itself, in USD."""
    return sum((saving(control, moved).usd for control, moved in periods), Decimal(0))


def _harm(evidence: RampEvidence, rules: RampRules) -> str:
    """What is certainly worse than it may be, in words; empty when nothing is."""
    told = [breach.told for breach in breaches(rules.guards, evidence.control, evidence.moved)]
    gap = evidence.gap
    if gap is not None and gap.effective_sample_size >= rules.least_labels and gap.high < -rules.worse_by:
        told.append(f"quality differs by {gap.estimate:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})")
    return "; ".join(told)


def _missing(evidence: RampEvidence, rules: RampRules) -> str:
    """What has to be waited for, in words; empty when nothing has."""
    labels = evidence.gap.effective_sample_size if evidence.gap else 0.0
    if evidence.hours < rules.least_hours:
        return f"{evidence.hours:.0f} of {rules.least_hours:.0f} hours have passed"
    if evidence.moved.requests < rules.least_requests:
        return f"{evidence.moved.requests} of {rules.least_requests} requests were seen"
    if labels < rules.least_labels:
        return f"{labels:.0f} of {rules.least_labels} judgements were made"
    if evidence.gap and evidence.gap.estimate < -rules.looks_worse_by:
        return f"quality looks worse by {-evidence.gap.estimate:.3f}, not yet certainly"
    return ""
