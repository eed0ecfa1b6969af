"""What the router may know of a tenant's wishes: frozen facts, loaded with the tenant's policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from routing.candidates import Contestant
from routing.experiments import Experiment

EngineName = Literal["hier", "ema", "fixed"]


@dataclass(frozen=True, slots=True)
class Ramp:
    """A cell's requests that go to another model than the router would choose. Empty task, complexity or
    ``from_model``: any."""

    id: str
    task: str
    complexity: str
    from_model: str
    to_model: str
    percent: int

    def concerns(self, task: str, complexity: str) -> bool:
        return self.task in ("", task) and self.complexity in ("", complexity)


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """An experiment under way, and the share of its answers that are judged."""

    design: Experiment
    judge_rate: float


@dataclass(frozen=True, slots=True)
class RoutingFacts:
    """One tenant's. ``strategies`` are those of projects and API tokens, by id; ``published`` quality (0-1) by model;
    ``contestants`` are the chat models that have a provider to serve them, by name; ``identities`` name those of them
    that are the same for every tenant (vendor kind / vendor's model)."""

    engine: EngineName = "hier"
    strategy: str = "balanced"
    strategies: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Mapping[str, Any], ...] = ()
    judges: bool = False
    judge_rate: float = 0.0
    shadow: bool = True
    quality_floor: float | None = None
    ema_alpha: float = 0.1
    ema_epsilon: float = 0.1
    ema_least_samples: int = 5
    published: Mapping[str, float] = field(default_factory=dict)
    contestants: Mapping[str, Contestant] = field(default_factory=dict)
    identities: Mapping[str, str] = field(default_factory=dict)
    experiments: tuple[RunningExperiment, ...] = ()
    ramps: tuple[Ramp, ...] = ()

    def strategy_for(self, token_id: str, project_id: str) -> str:
        """What a request is routed by that asks for nothing itself."""
        if not self.strategies:
            return self.strategy
        return self.strategies.get(token_id) or self.strategies.get(project_id) or self.strategy
