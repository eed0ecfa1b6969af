"""What to expect of a model before anybody has rated it."""

from collections.abc import Mapping, Sequence

import numpy as np


def decades_dearer(models: Sequence[str], known: Mapping[str, float], prices: Mapping[str, float]) -> dict[str, float]:
    """By how many factors of ten a model is dearer than the middle of the published (``known``) models, or of all
    where none is; without those whose price is not known."""
    logs = {model: float(np.log10(prices[model])) for model in models if prices.get(model, 0.0) > 0}
    anchors = [logs[model] for model in known if model in logs] or list(logs.values())
    if not anchors:
        return {}
    middle = float(np.mean(anchors))
    return {model: log - middle for model, log in logs.items()}
