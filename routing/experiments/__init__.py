"""Comparing models on live traffic: who gets which arm, and when the evidence is enough."""

from routing.experiments.facts import Experiment as Experiment
