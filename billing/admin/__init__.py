"""The operators' pages of money: prices, the ledger, what may be spent, sums by the hour, and who is told."""

from billing.admin.alerts import AlertAdmin, AlertChannelAdmin, AlertDeliveryAdmin, AlertRuleAdmin
from billing.admin.budgets import BudgetAdmin, RateLimitAdmin
from billing.admin.ledger import AdjustmentAdmin, AttemptAdmin, GatewayProcessAdmin, SettlementAdmin
from billing.admin.plans import PlanAdmin, SubscriptionAdmin
from billing.admin.prices import PriceVersionAdmin
from billing.admin.reports import MeterEventAdmin, UsageReportAdmin
from billing.admin.rollups import UsageHourAdmin, UsageHourTagAdmin, UsageHourUserAdmin

__all__ = [
    "AdjustmentAdmin",
    "AlertAdmin",
    "AlertChannelAdmin",
    "AlertDeliveryAdmin",
    "AlertRuleAdmin",
    "AttemptAdmin",
    "BudgetAdmin",
    "GatewayProcessAdmin",
    "MeterEventAdmin",
    "PlanAdmin",
    "PriceVersionAdmin",
    "RateLimitAdmin",
    "SettlementAdmin",
    "SubscriptionAdmin",
    "UsageHourAdmin",
    "UsageHourTagAdmin",
    "UsageHourUserAdmin",
    "UsageReportAdmin",
]
