"""The three engines on their way from one label to a later one, for the applier."""

from dataclasses import dataclass
from typing import Protocol

from routing.decision import Label as Lesson
from routing.decision_log import read_vector
from routing.ema import MovingAverages
from routing.engine import Engine
from routing.facts import RoutingFacts
from routing.features import RequestFeatures
from routing.models import Label
from routing.routers import new_averages, new_engine, with_models
from routing.scores import Experience
from routing.stored import averages_from_bytes, averages_to_bytes, experience_from_bytes, experience_to_bytes


class Learner(Protocol):
    """An engine's state on its way from one position to a later one."""

    experience: Experience

    def learn(self, label: Label, model: str, variance: float | None) -> str | None:
        """Take one label in; returns what was noticed, in words. Raises ValueError for one that does not fit."""

    def to_bytes(self) -> bytes: ...


class _Believing:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def experience(self) -> Experience:
        return self._engine.experience

    @experience.setter
    def experience(self, known: Experience) -> None:
        self._engine.experience = known

    def learn(self, label: Label, model: str, variance: float | None) -> str | None:
        learned = self._engine.learn(Lesson(model, read_vector(bytes(label.vector)), label.value, variance))
        return f"{model} answers worse than expected" if learned.changed else None

    def to_bytes(self) -> bytes:
        return self._engine.to_bytes()


class _Averaging:
    def __init__(self, averages: MovingAverages) -> None:
        self._averages = averages

    @property
    def experience(self) -> Experience:
        return self._averages.experience

    @experience.setter
    def experience(self, known: Experience) -> None:
        self._averages.experience = known

    def learn(self, label: Label, model: str, variance: float | None) -> str | None:
        features = RequestFeatures(label.task, label.complexity, read_vector(bytes(label.vector)), 0)
        self._averages.learn(features, model, label.value)
        return None

    def to_bytes(self) -> bytes:
        return averages_to_bytes(self._averages)


@dataclass(slots=True)
class _Observing:
    """Fixed weights learn nothing but lengths and latencies."""

    experience: Experience

    def learn(self, label: Label, model: str, variance: float | None) -> str | None:
        return None

    def to_bytes(self) -> bytes:
        return experience_to_bytes(self.experience)


def learner_of(facts: RoutingFacts, state: bytes) -> Learner:
    """The engine of a state; an empty one is a router's that has learned nothing. Raises UnreadableState."""
    if facts.engine == "fixed":
        return _Observing(experience_from_bytes(state) if state else Experience())
    if facts.engine == "ema":
        averages = new_averages(facts)
        return _Averaging(averages_from_bytes(state, averages.settings) if state else averages)
    return _Believing(with_models(Engine.from_bytes(state), facts) if state else new_engine(facts))
