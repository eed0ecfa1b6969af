"""What operators see of a tenant's router: what it believes, how far it has come, and why it decided as it did.

Queries and figures only; :mod:`routing.admin` shows them.
"""

from routing.overview.beliefs import Belief, HeatMap
from routing.overview.explained import Explanation, explained
from routing.overview.moves import Curve
from routing.overview.page import ModelLine, RouterOverview, overview_of
from routing.overview.recovered import Recovered

__all__ = [
    "Belief",
    "Curve",
    "Explanation",
    "HeatMap",
    "ModelLine",
    "Recovered",
    "RouterOverview",
    "explained",
    "overview_of",
]
