"""What spend is told by, and what is told of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

from billing.rollups import GRAINS, Grain, percentile

Dimension = Literal[
    "tenant", "project", "token", "model", "provider", "vendor_model", "purpose", "user", "tag", "task_type",
    "complexity",
]  # fmt: skip
Interval = Literal["hour", "day", "week", "month"]
Value = UUID | str | None

COLUMNS: Final[dict[Dimension, str]] = {
    "tenant": "tenant_id",
    "project": "project_id",
    "token": "token_id",
    "model": "model_id",
    "provider": "provider_id",
    "vendor_model": "vendor_model",
    "purpose": "purpose",
    "user": "end_user",
    "tag": "tag",
    "task_type": "task_type",
    "complexity": "complexity",
}
DIMENSIONS: Final[tuple[Dimension, ...]] = tuple(COLUMNS)
INTERVALS: Final[tuple[Interval, ...]] = ("hour", "day", "week", "month")


class NotTogether(ValueError):
    """These dimensions are not counted together: tags and end users go with tenant, project and time only."""


def grain_of(dimensions: Iterable[Dimension]) -> Grain:
    """The roll-up of the fewest rows that is counted by all of these. Raises NotTogether."""
    columns = {COLUMNS[dimension] for dimension in dimensions}
    for grain in GRAINS:
        if columns <= set(grain.columns):
            return grain
    raise NotTogether("Tags and end users can be combined with tenant, project and time, and with nothing else.")


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over settled attempts.

    ``requests`` counts what callers asked for, once each, where it was tried first; ``attempts`` every call of a
    vendor, also retries, fallbacks and the gateway's own. Token classes are disjoint; audio counts as input and output.
    ``cost_usd`` is what the lines say, ``adjusted_usd`` what was corrected since; ``unpriced`` attempts used something
    whose price is not known and are missing in both.
    """

    attempts: int = 0
    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    abandoned: int = 0
    estimated: int = 0
    unpriced: int = 0
    cache_hits: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    adjusted_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)

    @property
    def spend_usd(self) -> Decimal:
        return self.cost_usd + self.adjusted_usd

    @property
    def tokens(self) -> int:
        return (
            self.input_tokens
            + self.cached_input_tokens
            + self.cache_write_tokens
            + self.output_tokens
            + self.reasoning_tokens
        )

    @property
    def error_rate(self) -> float | None:
        """Share of the attempts that failed; None of none."""
        return self.failed / self.attempts if self.attempts else None


_NOTHING: Final = Figures()
FIGURE_NAMES: Final = tuple(figure.name for figure in fields(Figures))


@dataclass(frozen=True, slots=True)
class Latency:
    """How long settled attempts took, as a histogram (see :data:`billing.rollups.LATENCY_BOUNDS_MS`)."""

    counts: tuple[int, ...]

    def percentile_ms(self, share: float) -> float | None:
        """See :func:`billing.rollups.percentile` for how exact this is."""
        return percentile(self.counts, share)


@dataclass(frozen=True, slots=True)
class Row:
    """``key`` has the values of what was asked ``by``, in that order; ``starts_at`` is the period's, where one was."""

    key: tuple[Value, ...]
    starts_at: datetime | None
    figures: Figures
    latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """An answer. ``since`` and ``until`` are whole hours round what was asked for; ``current_from`` is the hour from
    which lines were read out of the ledger itself, ``rolled_up_to`` until when older ones are in (None: never)."""

    since: datetime
    until: datetime
    by: tuple[Dimension, ...]
    interval: Interval | None
    current_from: datetime
    rolled_up_to: datetime | None
    rows: list[Row] = field(default_factory=list)

    @property
    def total(self) -> Figures:
        """Of all rows; a call counts under each of its tags, so sums by tag add up to more than there was."""
        summed: dict[str, Any] = {
            name: sum((getattr(row.figures, name) for row in self.rows), start=getattr(_NOTHING, name))
            for name in FIGURE_NAMES
        }
        return Figures(**summed)
