"""What to expect of a model before anybody has rated it."""

from collections.abc import Mapping, Sequence

import numpy as np


def quality_by_price(
    models: Sequence[str], known: Mapping[str, float], usual: float, prices: Mapping[str, float], slope: float
) -> dict[str, float]:
    """Quality to expect by price: ``slope`` for a factor of ten, through the middle of the published models, if any."""
    logs = {model: float(np.log10(prices[model])) for model in models if prices.get(model, 0.0) > 0}
    anchors = [logs[model] for model in known if model in logs] or list(logs.values())
    if not anchors:
        return {}
    middle = float(np.mean(anchors))
    return {model: usual + slope * (log - middle) for model, log in logs.items()}
