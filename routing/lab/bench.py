"""The whole of a lab run: contenders x orders, and one row of figures for each contender."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from routing.ema import EmaSettings, MovingAverages
from routing.engine import Engine, EngineSettings
from routing.lab.contenders import Averaging, Contender, FixedWeights, Learning
from routing.lab.replay import CHECKPOINTS, QUALITY_SHARES, Conditions, Outcome, Stream, replay, stream_of
from routing.lab.table import Matrix, Table
from routing.scores import Taste

FIRST_SEED = 1000
REFERENCES = ("random", "cheapest", "best-single", "oracle")
ENGINES = ("random", "cheapest", "best-single", "fixed", "ema", "hier", "oracle")
WIDER = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Figures:
    """One engine's row. Utility is quality less weighted cost; costs in USD per 1,000 requests."""

    engine: str
    utility: float
    utility_se: float
    last_half: float
    last_quarter: float
    regret_per_1000: float
    oracle_gap: float
    explored_share: float
    labels: float
    recovered: dict[str, float] = field(default_factory=dict)
    cost_at: dict[str, float | None] = field(default_factory=dict)
    decision_us: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The row with rounded figures."""
        rounded = {name: _rounded(getattr(self, name)) for name in self.__dataclass_fields__}
        return rounded | {"engine": self.engine}


@dataclass(frozen=True)
class Run:
    """What to replay. ``prior``: "none" (prices only), "flat" (not even those) or "noise:SD" (true means + noise)."""

    table: Table
    conditions: Conditions
    orders: int = 10
    prior: str = "none"
    engines: Sequence[str] = ENGINES
    averaged: bool = False

    def figures(self, tell: Callable[[str], object] = str) -> list[Figures]:
        """Replay every engine on every order. Raises ValueError for an engine or a prior that does not exist."""
        unknown = [name for name in self.engines if name not in ENGINES]
        if unknown or not self.engines:
            raise ValueError(f"no engine {', '.join(unknown) or 'is named'}; there are {', '.join(ENGINES)}")
        self._published(self.table, np.random.default_rng(0))
        outcomes: dict[str, list[Outcome]] = {name: [] for name in self.engines}
        bests: list[Matrix] = []
        oracles: list[float] = []
        for seed in range(FIRST_SEED, FIRST_SEED + self.orders):
            stream = stream_of(self.table, seed, self.conditions)
            bests.append(stream.utility[:, stream.best])
            oracles.append(float(stream.utility.max(axis=1).mean()))
            for name in self.engines:
                outcomes[name].append(self._outcome(name, stream, seed))
            tell(f"order {seed - FIRST_SEED + 1} of {self.orders}")
        return [self._row(name, outcomes[name], bests, oracles) for name in self.engines]

    def _outcome(self, name: str, stream: Stream, seed: int) -> Outcome:
        if name in REFERENCES:
            return _reference(name, stream, seed)
        return replay(stream, self._contender(name, stream, seed), seed)

    def _contender(self, name: str, stream: Stream, seed: int) -> Contender:
        taste = Taste(self.conditions.cost_weight)
        if name == "ema":
            return Averaging(MovingAverages(EmaSettings(), default=stream.table.models[stream.cheapest]), taste)
        if name == "fixed":
            return FixedWeights(self._published(stream.table, np.random.default_rng([seed, 1])))
        return Learning(self.new_engine(stream, seed), taste, self.conditions.shadow)

    def new_engine(self, stream: Stream, seed: int) -> Engine:
        """The gateway's engine before the first label, with the prior of this run."""
        prices = {one.model: one.output_price or one.input_price for one in stream.table.candidates}
        return Engine.begin(
            stream.table.models,
            published=self._published(stream.table, np.random.default_rng([seed, 1])),
            prices=None if self.prior == "flat" else prices,
            space=stream.table.space,
            settings=EngineSettings(prior_scales=WIDER) if self.averaged else EngineSettings(),
        )

    def _published(self, table: Table, rng: np.random.Generator) -> dict[str, float]:
        if self.prior in ("none", "flat"):
            return {}
        kind, _, spread = self.prior.partition(":")
        try:
            sd = float(spread)
        except ValueError:
            sd = -1.0
        if kind != "noise" or not 0 <= sd < math.inf:
            raise ValueError(f"prior {self.prior!r} is none of none, flat, noise:SD")
        means = table.quality.mean(axis=0) + rng.normal(0.0, sd, len(table.models))
        return dict(zip(table.models, (float(mean) for mean in means), strict=True))

    def _row(self, name: str, outcomes: list[Outcome], bests: list[Matrix], oracles: list[float]) -> Figures:
        means = np.array([outcome.utility.mean() for outcome in outcomes])
        times = np.array([taken for outcome in outcomes for taken in outcome.decision_us])
        best = float(np.mean([one.mean() for one in bests]))
        half, quarter = len(self.table) // 2, len(self.table) * 3 // 4
        return Figures(
            engine=name,
            utility=float(means.mean()),
            utility_se=float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0,
            last_half=float(np.mean([outcome.utility[half:].mean() for outcome in outcomes])),
            last_quarter=float(np.mean([outcome.utility[quarter:].mean() for outcome in outcomes])),
            regret_per_1000=1_000 * (best - float(means.mean())),
            oracle_gap=float(np.mean(oracles)) - float(means.mean()),
            explored_share=float(np.mean([outcome.explored for outcome in outcomes])) / len(self.table),
            labels=float(np.mean([outcome.labels for outcome in outcomes])),
            recovered={
                str(n): _mean([o.recovered[n] for o in outcomes if n in o.recovered])
                for n in CHECKPOINTS
                if any(n in o.recovered for o in outcomes)
            },
            cost_at={
                str(share): _mean_or_none([o.cost_at.get(share, np.inf) for o in outcomes]) for share in QUALITY_SHARES
            },
            decision_us={f"p{p}": float(np.percentile(times, p)) for p in (50, 99)} if len(times) else {},
        )


def _reference(name: str, stream: Stream, seed: int) -> Outcome:
    """A rule that needs no learning, or knows everything beforehand."""
    utility, rows = stream.utility, np.arange(len(stream.table))
    if name == "oracle":
        return Outcome(utility.max(axis=1))
    if name == "random":
        chosen = np.random.default_rng(seed).integers(utility.shape[1], size=len(rows))
        return Outcome(utility[rows, chosen])
    column = stream.best if name == "best-single" else stream.cheapest
    share = float(name == "best-single")
    quality, cost = stream.table.quality[:, column].mean(), float(stream.table.cost[:, column].mean()) * 1_000
    wanted = stream.table.quality.mean(axis=0).max()
    reached = {part: cost for part in QUALITY_SHARES if quality >= wanted * part / 100}
    return Outcome(utility[:, column], recovered=dict.fromkeys(CHECKPOINTS, share), cost_at=reached)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _mean_or_none(values: Sequence[float]) -> float | None:
    """The mean, or None where an order never reached it."""
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
