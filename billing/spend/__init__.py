"""The one place that queries what was spent: sums by any dimension, trends, percentiles. Money is Decimal USD.

See docs/spend.md for what the figures mean and how current they are.
"""

from billing.spend.dimensions import (
    DIMENSIONS,
    FIGURE_NAMES,
    INTERVALS,
    Dimension,
    Figures,
    Interval,
    Latency,
    NotTogether,
    Row,
    Spend,
    Value,
)
from billing.spend.ranges import TooManyPeriods
from billing.spend.sums import Filters, TooManyRows, spend_of, spend_of_all
from billing.spend.trends import Anomaly, Trend, anomaly, trend

__all__ = [
    "DIMENSIONS",
    "FIGURE_NAMES",
    "INTERVALS",
    "Anomaly",
    "Dimension",
    "Figures",
    "Filters",
    "Interval",
    "Latency",
    "NotTogether",
    "Row",
    "Spend",
    "TooManyPeriods",
    "TooManyRows",
    "Trend",
    "Value",
    "anomaly",
    "spend_of",
    "spend_of_all",
    "trend",
]
