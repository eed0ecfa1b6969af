"""Experiments on the database: looked at, concluded, begun by themselves. What is proven, :mod:`routing.experiments`
says."""

from routing.trials.automatic import auto_ab
from routing.trials.conclusions import NotRunning, conclusion_of, evaluate_experiments, stop_experiment

__all__ = ["NotRunning", "auto_ab", "conclusion_of", "evaluate_experiments", "stop_experiment"]
