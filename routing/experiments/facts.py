"""What an experiment is."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["split", "shadow"]
Sticky = Literal["request", "session", "user"]

LEAST_ARMS = 2


@dataclass(frozen=True, slots=True)
class Experiment:
    """Models compared on the requests of a cell (empty task or complexity: any).

    The first arm is the control, which the others must beat. ``shares`` are of the traffic (split) or, but for the
    control's, of the shadow calls; they are scaled to sum to 1, and empty means equal. Raises ValueError for fewer
    than two arms, an arm named twice, or shares that do not fit.
    """

    id: str
    name: str
    task: str
    complexity: str
    arms: tuple[str, ...]
    shares: tuple[float, ...] = ()
    mode: Mode = "split"
    sticky: Sticky = "session"

    def __post_init__(self) -> None:
        if len(self.arms) < LEAST_ARMS or len(set(self.arms)) != len(self.arms):
            raise ValueError("an experiment needs at least two arms, each named once")
        shares = self.shares or (1.0,) * len(self.arms)
        if len(shares) != len(self.arms) or not all(0 < share < float("inf") for share in shares):
            raise ValueError("an experiment needs a share above 0 for each arm")
        if self.mode not in ("split", "shadow") or self.sticky not in ("request", "session", "user"):
            raise ValueError(f"no such way to run an experiment: {self.mode}, sticky by {self.sticky}")
        total = sum(shares)
        object.__setattr__(self, "shares", tuple(share / total for share in shares))

    def concerns(self, task: str, complexity: str) -> bool:
        """Whether requests of this cell take part."""
        return self.task in ("", task) and self.complexity in ("", complexity)
