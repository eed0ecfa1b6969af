"""What a scripted vendor saw and what it metered: the truth that a gateway's ledger is compared with."""

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from gateway.conformance.vendors.answers import Metered

Outcome = Literal["open", "answered", "refused", "reset", "cut", "failed", "gone"]


@dataclass(slots=True)
class LoggedCall:
    """One request. Times are Unix seconds.

    outcome: ``open`` in progress, ``answered`` to the end (with faults of content too), ``refused`` with an error
        status, ``reset`` before the headers, ``cut`` in the middle, ``failed`` by an error inside a 200, ``gone``: the
        client left first.
    generated_tokens: output and reasoning tokens produced; what a vendor bills, and what ``metered`` holds.
    sent_tokens: those of them whose event has been written out completely.
    client_gone_at: ``sent_tokens`` at the moment the client left, None if it stayed.
    metered: disjoint counts. A refused or unanswered call costs nothing; a broken-off one its whole input and what
        was generated until then. Where the format does not tell reasoning apart (Ollama) it is in ``output``.
    """

    number: int
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    key: str | None = None
    format: str | None = None
    model: str = ""
    behaviour: str = ""
    stream: bool = False
    status: int | None = None
    outcome: Outcome = "open"
    generated_tokens: int = 0
    sent_tokens: int = 0
    client_gone_at: int | None = None
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    metered: Metered = field(default_factory=Metered)

    def count_prompt(self, usage: Metered) -> None:
        self.metered.input = usage.input
        self.metered.cached_input = usage.cached_input
        self.metered.cache_write = usage.cache_write

    def count_generated(self, output: int, reasoning: int, apart: bool) -> None:
        """``apart``: the format reports reasoning tokens by themselves."""
        self.generated_tokens += output + reasoning
        self.metered.output += output if apart else output + reasoning
        self.metered.reasoning += reasoning if apart else 0

    def count_sent(self, tokens: int, with_usage: bool) -> None:
        """``with_usage``: what was sent completes a true report of usage."""
        self.sent_tokens += tokens
        self.metered.usage_sent = self.metered.usage_sent or with_usage

    def to_json(self) -> dict[str, Any]:
        # Not asdict alone: it would copy every body and header, which a log of thousands of calls feels.
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"metered": asdict(self.metered)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "metered": Metered(**value["metered"])})
