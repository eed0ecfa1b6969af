"""Who may answer a routed request, how they do at this moment, and what a rule says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from gateway.wire.types import Needs

Options = Mapping[str, Any]


class Condition(Struct, frozen=True):
    """How a candidate does at this moment; None is not known. ``paused_s``: seconds until its vendor wants to be asked
    again. ``first_token_s``: usual seconds to the first token. ``success_rate``: of its latest calls, 0-1.
    ``headroom``: what is left of the vendor's rate limit, 0-1. ``share``: of the tenant's latest routed requests, those
    it answered, 0-1. ``budget_left``: what is left of the scarcest budget that holds for it, 0-1."""

    circuit_open: bool = False
    paused_s: float = 0.0
    first_token_s: float | None = None
    success_rate: float | None = None
    headroom: float | None = None
    share: float = 0.0
    budget_left: float | None = None


WELL = Condition()


def all_well(name: str) -> Condition:
    """How everybody does, nearly always."""
    return WELL


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model that may answer. Prices in USD per million tokens; None is not known. Of empty ``capabilities`` nobody
    knows, so nothing is refused for them. ``kind`` is the provider's row in the catalogue."""

    name: str
    provider: str = ""
    kind: str = ""
    input_price: float | None = None
    output_price: float | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()
    region: str = ""


class Asked(Struct, frozen=True):
    """A request as rules see it. ``confidence`` (0-1) is the classifier's; ``max_tokens`` is the caller's own.
    ``now`` tells how the candidate of a name does; only rules that have to know call it."""

    task: str
    complexity: str
    confidence: float
    needs: Needs
    input_tokens: int
    max_tokens: int | None
    text: str
    now: Callable[[str], Condition]


class Verdict(Struct, frozen=True):
    """Names a rule removes, each with the reason, and points of quality (0-1 scale) it gives or takes."""

    removed: Mapping[str, str] = {}
    points: Mapping[str, float] = {}


NOTHING = Verdict()


class Rule(Protocol):
    """A filter, a score, or both. A module is one if it has these names."""

    NAME: str

    def apply(self, asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
        """What the rule says of those in the field. ``options`` have passed ``check``."""

    def check(self, options: Options) -> None:
        """Raises ValueError, in words for whoever wrote them, if options cannot be used."""
