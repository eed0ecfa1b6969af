"""What the rules of one request said together, and what it holds if they let it pass."""

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from tenants.ratelimit.rules import TOLERANCE, Answer, Rule, Slots, burst_of, share_of

SLOT_WAIT_S = 1.0  # when one of the requests under way ends, nobody knows


class Holding(Struct, eq=False):
    """What one admitted request has taken and will give back. ``shared``: out of Redis' buckets."""

    name: str
    tokens: Sequence[Rule]
    slots: Sequence[Slots]
    shared: bool
    renewed_at: float = 0.0  # time.monotonic()


class Lease:
    """What an admitted request holds until it ends: its slots, and the tokens it was estimated to need.

    ``end`` gives the slots back and corrects the estimate. A lease that is lost without it (nobody reads an answer
    that nobody waits for any more) is given back as well, as soon as it is noticed.
    """

    __slots__ = ("_abandoned", "_end", "_holding")

    def __init__(self, holding: Holding, end: Callable[[Holding, int], None], abandoned: deque[Holding]) -> None:
        self._holding: Holding | None = holding
        self._end, self._abandoned = end, abandoned

    def end(self, tokens: int = 0) -> None:
        """The request is over and has used so many tokens. Later calls change nothing."""
        holding, self._holding = self._holding, None
        if holding is not None:
            self._end(holding, tokens)

    def __del__(self) -> None:
        # Perhaps in another thread, whichever collects garbage: the limiter itself does the rest.
        if self._holding is not None:
            self._abandoned.append(self._holding)


class Standing(Struct, frozen=True):
    """How one rule stands: whole units that would pass now, and seconds until its bucket is empty again."""

    rule: Rule
    remaining: int
    reset_s: float

    @property
    def limit(self) -> int:
        return self.rule.limit


class Verdict(Struct, frozen=True):
    """What the rules of one request said together.

    Attributes:
        allowed: all agreed; otherwise nothing was taken from any.
        degraded: this process decided by itself, on its share of the limits.
        lease: what the request holds until it ends; None if that is nothing.
    """

    allowed: bool
    rules: Sequence[Rule] = ()
    slots: Sequence[Slots] = ()
    answer: Answer | None = None
    workers: int = 1
    degraded: bool = False
    lease: Lease | None = None

    @property
    def requests(self) -> Standing | None:
        """The tightest limit of requests; None if there is none. The floor of a network address is not one of them."""
        return self.standings()[0]

    @property
    def tokens(self) -> Standing | None:
        """The tightest limit of tokens; None if there is none."""
        return self.standings()[1]

    @property
    def refused_by(self) -> Rule | Slots | None:
        """Of those that refuse the one with the longest wait; None if none does."""
        return self._longest_wait()[0]

    @property
    def retry_after_s(self) -> float:
        """Seconds until this request can pass, 0 when it did. A cost above the burst never passes; the window's length
        stands for that."""
        return self._longest_wait()[1]

    def standings(self) -> tuple[Standing | None, Standing | None]:
        """:attr:`requests` and :attr:`tokens`."""
        requests: Standing | None = None
        tokens: Standing | None = None
        least_requests = least_tokens = 2.0  # what is left, as a share of the bucket
        for rule, fill in zip(self.rules, self.answer.fills if self.answer else (), strict=True):
            if rule.scope == "ip":
                continue
            share = 1.0 - fill / burst_of(rule, self.workers)
            if rule.unit == "tokens":
                if share < least_tokens:
                    tokens, least_tokens = self._standing(rule, fill), share
            elif share < least_requests:
                requests, least_requests = self._standing(rule, fill), share
        return requests, tokens

    def _standing(self, rule: Rule, fill: float) -> Standing:
        remaining = max(0, int(burst_of(rule, self.workers) - fill + TOLERANCE))
        return Standing(rule, remaining, fill * rule.window_s * self.workers / rule.limit)

    def _longest_wait(self) -> tuple[Rule | Slots | None, float]:
        if self.allowed or self.answer is None:
            return None, 0.0
        waits: list[tuple[Rule | Slots, float]] = [
            (rule, self._wait_s(rule, fill)) for rule, fill in zip(self.rules, self.answer.fills, strict=True)
        ]
        waits += [
            (slot, SLOT_WAIT_S)
            for slot, busy in zip(self.slots, self.answer.busy, strict=True)
            if busy >= share_of(slot, self.workers)
        ]
        return max(waits, key=lambda wait: wait[1])

    def _wait_s(self, rule: Rule, fill: float) -> float:
        """Seconds until ``rule`` would let its cost pass."""
        burst = burst_of(rule, self.workers)
        if rule.cost > burst:
            return rule.window_s
        return max(0.0, fill + rule.cost - burst) * rule.window_s * self.workers / rule.limit
