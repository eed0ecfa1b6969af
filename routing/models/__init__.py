"""What the router is told, what it decided, what it has learned, and what is tried out."""

from routing.models.decisions import Decision, Feedback, JudgeSample, Label
from routing.models.replays import BankedConversation, DriftWatch, ReplayVerdict
from routing.models.settings import PublishedScore, RoutingSettings, StrategyChoice
from routing.models.states import RouterState, WeightSnapshot
from routing.models.trials import Experiment, ExperimentEvidence, Ramp

__all__ = [
    "BankedConversation",
    "Decision",
    "DriftWatch",
    "Experiment",
    "ExperimentEvidence",
    "Feedback",
    "JudgeSample",
    "Label",
    "PublishedScore",
    "Ramp",
    "ReplayVerdict",
    "RouterState",
    "RoutingSettings",
    "StrategyChoice",
    "WeightSnapshot",
]
