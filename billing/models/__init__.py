"""Money: what tokens cost, what was spent, what may be spent, and who is told."""

from billing.models.alerts import Alert, AlertChannel, AlertDelivery, AlertRule
from billing.models.budgets import Budget, BudgetPeriod, RateLimit
from billing.models.ledger import Adjustment, Attempt, GatewayProcess, Settlement
from billing.models.plans import Plan, Subscription
from billing.models.prices import TOKEN_PRICES, PriceVersion
from billing.models.reports import MeterEvent, MeterValue, UsageReport
from billing.models.rollups import RollupMark, UsageHour, UsageHourTag, UsageHourUser

__all__ = [
    "TOKEN_PRICES",
    "Adjustment",
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertRule",
    "Attempt",
    "Budget",
    "BudgetPeriod",
    "GatewayProcess",
    "MeterEvent",
    "MeterValue",
    "Plan",
    "PriceVersion",
    "RateLimit",
    "RollupMark",
    "Settlement",
    "Subscription",
    "UsageHour",
    "UsageHourTag",
    "UsageHourUser",
    "UsageReport",
]
