"""Who is told when: budgets' thresholds, rules, and the messages that bring it.

What happens is found (:mod:`billing.alerts.budgets`, :mod:`billing.alerts.rules`), written down once together with
what is to be delivered (:mod:`billing.alerts.book`), and sent afterwards (:mod:`billing.alerts.delivery`). Each of
these is a plain function of the moment; any number of workers may call it at once.
"""

from billing.alerts.budgets import raise_budget_alerts
from billing.alerts.delivery import deliver_pending, send_test
from billing.alerts.measures import TrippedCircuit
from billing.alerts.rules import evaluate_rules

__all__ = ["TrippedCircuit", "deliver_pending", "evaluate_rules", "raise_budget_alerts", "send_test"]
