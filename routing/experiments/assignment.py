"""Which arm a request gets: by a keyed hash, so that every replica says the same and nothing is stored."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

from routing.experiments.facts import Experiment


def place_of(salt: str, key: str) -> float:
    """A number in [0, 1), uniform over keys; another salt shuffles them anew."""
    secret = blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    digest = blake2b(key.encode("utf-8", "surrogatepass"), key=secret, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)  # 53 bits: all that a float holds below 1


def arm_of(experiment: Experiment, key: str) -> tuple[int, float]:
    """The arm that answers and the probability of that. ``key`` is the request's, session's or user's.

    A shadow experiment is always answered by its control.
    """
    if experiment.mode == "shadow":
        return 0, 1.0
    arm = _drawn(place_of(experiment.id, key), experiment.shares)
    return arm, experiment.shares[arm]


def challenger_of(experiment: Experiment, key: str) -> tuple[int, float]:
    """The arm that answers beside the control in a shadow experiment, and the probability of that.

    Raises ValueError for an experiment that splits traffic.
    """
    if experiment.mode != "shadow":
        raise ValueError("only a shadow experiment has challengers beside the control")
    rest = experiment.shares[1:]
    shares = [share / sum(rest) for share in rest]
    arm = _drawn(place_of(experiment.id, key), shares)
    return arm + 1, shares[arm]


def _drawn(place: float, shares: Sequence[float]) -> int:
    for arm, reached in enumerate(accumulate(shares)):
        if place < reached:
            return arm
    return len(shares) - 1
