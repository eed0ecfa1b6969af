"""Which of a tenant's limits hold for a request, as rules."""

import hashlib
from collections.abc import Iterable, Sequence

from msgspec import Struct

from tenants.ratelimit.rules import Rule, Scope, Slots

EVERY = "*"
MINUTE_S = 60.0
LONGEST_SUBJECT = 64  # characters, in a key; callers choose their end users' names
MOST_TOKENS = 1 << 40  # whatever a caller asks for: Redis' numbers have an end


class LimitFacts(Struct, frozen=True):
    """A limit as the hot path knows it; 0 is no limit.

    ``subject`` is the id of a project or token, the name of an end user or model, or ``*``: each of them by itself.
    """

    id: str
    scope: Scope
    subject: str
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrent: int = 0

    @property
    def needs_body(self) -> bool:
        """Only the body tells whether it holds, or for how much."""
        return self.tokens_per_minute > 0 or self.scope in ("user", "model")


class Asked(Struct, frozen=True):
    """What the body says that limits need to know. ``tokens`` is an estimate; 0 is not limited."""

    end_user: str
    model: str
    tokens: int


def that_may_hold(limits: Iterable[LimitFacts], project_id: str, token_id: str) -> Sequence[LimitFacts]:
    """The limits of a tenant that any request of this token may have to keep to."""
    return [
        limit
        for limit in limits
        if limit.scope in ("tenant", "user", "model")
        or limit.subject == (project_id if limit.scope == "project" else token_id)
    ]


def rules_of(limits: Iterable[LimitFacts], asked: Asked | None) -> tuple[list[Rule], list[Slots]]:
    """What one request has to keep to. ``asked`` None: its body is not known, nor what depends on it."""
    rules: list[Rule] = []
    slots: list[Slots] = []
    for limit in limits:
        key, scope = limit.id, limit.scope
        if scope in ("user", "model"):
            subject = "" if asked is None else asked.end_user if scope == "user" else asked.model
            if not subject or limit.subject not in (subject, EVERY):
                continue
            if limit.subject == EVERY:
                key = f"{key}:{_short(subject)}"
        if limit.requests_per_minute:
            rules.append(Rule(f"r:{key}", limit.requests_per_minute, MINUTE_S, scope=scope))
        if limit.tokens_per_minute and asked is not None and asked.tokens:
            cost = min(asked.tokens, MOST_TOKENS)
            rules.append(Rule(f"t:{key}", limit.tokens_per_minute, MINUTE_S, cost, None, "tokens", scope))
        if limit.concurrent:
            slots.append(Slots(f"c:{key}", limit.concurrent, scope))
    return rules, slots


def _short(subject: str) -> str:
    if len(subject) <= LONGEST_SUBJECT and subject.isascii():
        return subject
    return hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
