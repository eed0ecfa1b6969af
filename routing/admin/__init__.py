"""The operators' pages of routing: wishes, decisions, what was learned and what is tried out."""

from routing.admin.decisions import DecisionAdmin, FeedbackAdmin, JudgeSampleAdmin, LabelAdmin
from routing.admin.replays import BankedConversationAdmin, DriftWatchAdmin, ReplayVerdictAdmin
from routing.admin.settings import PublishedScoreAdmin, RoutingSettingsAdmin, StrategyChoiceAdmin
from routing.admin.states import RouterStateAdmin, WeightSnapshotAdmin
from routing.admin.trials import ExperimentAdmin, ExperimentEvidenceAdmin, RampAdmin

__all__ = [
    "BankedConversationAdmin",
    "DecisionAdmin",
    "DriftWatchAdmin",
    "ExperimentAdmin",
    "ExperimentEvidenceAdmin",
    "FeedbackAdmin",
    "JudgeSampleAdmin",
    "LabelAdmin",
    "PublishedScoreAdmin",
    "RampAdmin",
    "ReplayVerdictAdmin",
    "RouterStateAdmin",
    "RoutingSettingsAdmin",
    "StrategyChoiceAdmin",
    "WeightSnapshotAdmin",
]
