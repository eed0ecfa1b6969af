"""Which model answers when the caller leaves the choice to us: from a request to models in order, with the reason."""

import difflib
import random
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    ModelNotAllowed,
    NoProviderConfigured,
    Overloaded,
    UnsupportedContent,
)
from gateway.policy import ModelFacts, TenantPolicy, TokenFacts
from gateway.wire.types import Request
from routing.candidates import Asked, Condition, Contestant, all_well
from routing.classifier import COMPLEXITIES, TASKS, PromptFacts, classify
from routing.decision import UNIT, Exploration
from routing.facts import RunningExperiment
from routing.features import FeatureSpace, RequestFeatures
from routing.precedence import Choice, Keys, by_engine, experiment_of, going_on, last_word
from routing.routers import Question as RouterQuestion
from routing.routers import Ranking, Router, candidate_of
from routing.rules import Ease, Narrowed, llm, narrow, told
from routing.scores import Candidate

STRATEGY_OF: Mapping[str, str | None] = {"auto": None, "fast": "latency", "cheap": "cost", "best": "quality"}
ROUTED = frozenset({"chat", "count_tokens"})
MOST_TRIED = 4  # models of one request: the first, and what follows when it fails
MOST_REMEMBERED = 10_000
MOST_NAMED = 10  # providers, to who asks for one that there is not
LATEST = 200  # routed requests of a tenant by which shares are counted
_Key = TypeVar("_Key", bound=Hashable)
_Made = TypeVar("_Made")
_Memo = dict[_Key, tuple[Mapping[str, Contestant], _Made]]
_Conversation = tuple[str, str | None, int | None]
_SPACE = FeatureSpace()
_TOOLS_IN_FLIGHT = (b'"tool_calls"', b'"tool_use"', b'"function_call')
_REFUSALS: Mapping[str, type[GatewayError]] = {
    "capability": UnsupportedContent,
    "context": ContextLengthExceeded,
    "health": Overloaded,
}


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked for a rule, and for how long it is waited for."""

    model: str
    text: str
    timeout_s: float


class Conditions(Protocol):
    @property
    def all_well(self) -> bool:
        """Whether no circuit at all is open, and no vendor has asked to be left alone."""

    def condition_of(self, policy: TenantPolicy, model: ModelFacts) -> Condition:
        """How a model does at this moment."""


class Routers(Protocol):
    def router_of(self, policy: TenantPolicy) -> Router:
        """The tenant's router as of the newest state this process has read."""

    def has_looked(self, policy: TenantPolicy) -> bool:
        """Whether there is such a state has been found out."""

    async def look(self, policy: TenantPolicy) -> None:
        """Wait for that, not for long."""


class Selection(Struct):
    """The models to try in order, and all that was weighed."""

    models: Sequence[ModelFacts]
    choice: Choice
    strategy: str
    features: RequestFeatures
    confidence: float
    decision: Ranking
    removed: Mapping[str, tuple[str, str]]
    state_version: int
    judged: bool
    judge_probability: float

    @property
    def explored(self) -> bool:
        """Whether something else than the best was served in order to learn."""
        return self.choice.by == "experiment" or (
            self.decision.exploratory and self.choice.by != "ramp" and self.choice.model == self.decision.model
        )

    def as_metadata(self) -> dict[str, Any]:
        """What the answer says of its routing: the choice, and the numbers of the engine's first two. All of them are
        on the decision's page."""
        return {
            "strategy": self.strategy,
            "task_type": self.features.task,
            "complexity": self.features.complexity,
            "confidence": self.confidence,
            "reason": self.choice.reason,
            "propensity": round(self.choice.propensity * UNIT) / UNIT,
            "experiment": self.choice.experiment.name if self.choice.experiment else None,
            "candidates": self.decision.lead,
            "considered": len(self.decision.models),
            "removed": {name: ": ".join(why) for name, why in self.removed.items()} if self.removed else {},
        }


class _Field(Struct):
    """The models that one token may use, and what they are to all of its requests."""

    everybody: tuple[Contestant, ...]
    ease: Ease
    candidates: tuple[Candidate, ...]

    @classmethod
    def of(cls, everybody: tuple[Contestant, ...]) -> "_Field":
        return cls(everybody, Ease.of(everybody), tuple(map(candidate_of, everybody)))


class Selector:
    def __init__(self, routers: Routers, conditions: Conditions, seed: int | None = None) -> None:
        self._routers, self._conditions = routers, conditions
        self._rng, self._coin = np.random.default_rng(seed), random.Random(seed)  # noqa: S311 - nobody gains by guessing
        self._latest: dict[str, deque[str]] = {}
        self._answering: dict[_Conversation, str] = {}
        self._fields: _Memo[tuple[str, str], _Field] = {}
        self._candidates: _Memo[tuple[str, ...], tuple[Candidate, ...]] = {}

    def is_ready(self, policy: TenantPolicy) -> bool:
        """Whether what the tenant's router has learned is here to choose by."""
        return self._routers.has_looked(policy)

    async def get_ready(self, policy: TenantPolicy) -> None:
        """Wait for that, not for long: only a tenant's first request has to."""
        await self._routers.look(policy)

    def question(self, policy: TenantPolicy, token: TokenFacts, request: Request) -> Question | None:
        """What a rule of the tenant wants a model to be asked before it can choose; mostly nothing."""
        rules = policy.routing.rules
        place = next((place for place, rule in enumerate(rules) if rule["rule"] == llm.NAME), None)
        if place is None or rules[place]["model"] not in policy.models:
            return None
        asked = self._read(policy, request)[0]
        field = narrow(asked, self._allowed(policy, token).everybody, rules[:place]).field
        if len(field) < 2:
            return None
        options = rules[place]
        text = llm.question(asked, field, options.get("descriptions", {}))
        return Question(options["model"], text, options.get("timeout_s", llm.TIMEOUT_S))

    def select(
        self, policy: TenantPolicy, token: TokenFacts, request: Request, request_id: str, answer: str | None = None
    ) -> Selection:
        """``answer`` is that to :meth:`question`. Raises GatewayError when no model qualifies; the message says what
        removed each."""
        routing, wanted = policy.routing, request.extensions
        asked, features = self._read(policy, request)
        allowed = self._allowed(policy, token)
        narrowed = self._narrow(policy, allowed, asked, wanted.prefer_provider, answer)
        everybody = narrowed.field is allowed.everybody  # nearly always
        router = self._routers.router_of(policy)
        keys = running = None
        if routing.experiments or routing.ramps:
            sticks = wanted.session_id or request.affinity
            keys = Keys(request_id, sticks, request.end_user, _tools_in_flight(request))
            running = experiment_of(routing, features, narrowed.field, keys)
        probability = _judge_probability(router, running, request) if routing.judges else 0.0
        judged = probability > 0 and self._coin.random() < probability  # before anything is decided
        strategy = STRATEGY_OF[policy.virtual_name(request.model) or "auto"] or wanted.routing_strategy
        strategy = strategy or routing.strategy_for(token.id, token.project_id)
        decision = router.decide(
            RouterQuestion(
                features,
                allowed.candidates if everybody else self._candidates_of(policy, narrowed.field),
                strategy,
                _exploration(policy, request) if judged and running is None else Exploration.NONE,
                narrowed.points,
            ),
            self._rng,
        )
        choice = by_engine(routing, decision) if keys is None else last_word(routing, running, features, decision, keys)
        if request.needs.tools and request.operation == "chat":
            conversation = _conversation(token, wanted.session_id, asked.text)
            before = self._answered_by(conversation)
            if before not in {None, choice.model} and _tools_in_flight(request):
                choice = going_on(before, routing, decision, choice)
            self._remember(conversation, choice.model)
        if wanted.prefer_provider and routing.contestants[choice.model].provider != wanted.prefer_provider:
            unheard = f"no model of '{wanted.prefer_provider}' qualifies"
            choice = replace(choice, reason=f"{choice.reason}; {unheard}")
        if narrowed.skipped:
            told_skipped = "; ".join(f"the rule '{rule}' was skipped ({why})" for rule, why in narrowed.skipped)
            choice = replace(choice, reason=f"{choice.reason}; {told_skipped}")
        if routing.rules:
            self._latest.setdefault(policy.id, deque(maxlen=LATEST)).append(choice.model)
        names = decision.models
        if choice.model != names[0]:
            names = [choice.model, *(name for name in names if name != choice.model)]
        return Selection(
            models=[policy.models[name] for name in names[:MOST_TRIED]],
            choice=choice,
            strategy=strategy,
            features=features,
            confidence=asked.confidence,
            decision=decision,
            removed=narrowed.removed,
            state_version=router.version,
            judged=judged,
            judge_probability=probability,
        )

    def _read(self, policy: TenantPolicy, request: Request) -> tuple[Asked, RequestFeatures]:
        """What the request is like. Raises InvalidRequest for a task or complexity that there is not, and for what no
        chat model does."""
        if request.operation not in ROUTED:
            raise InvalidRequest(f"'{request.model}' chooses among chat models; name a model here.", param="model")
        wanted = request.extensions
        if wanted.task_type is not None or wanted.complexity is not None:
            _refuse_unknown_words(request)
        facts = PromptFacts.of(request)
        said = classify(facts)
        well = (
            not policy.routing.rules and self._conditions.all_well
        )  # nearly always: then nobody needs to be looked up
        task, complexity = wanted.task_type or said.task, wanted.complexity or said.complexity
        features = _SPACE.features(facts.text, task, complexity, input_tokens=max(1, request.input_chars // 4))
        asked = Asked(
            task=task,
            complexity=complexity,
            confidence=said.confidence,
            needs=request.needs,
            input_tokens=features.input_tokens,
            max_tokens=request.max_tokens,
            text=facts.text,
            now=all_well if well else lambda name: self._condition(policy, name),
        )
        return asked, features

    def _condition(self, policy: TenantPolicy, name: str) -> Condition:
        condition = self._conditions.condition_of(policy, policy.models[name])
        if not policy.routing.rules:  # nobody asks for its share
            return condition
        latest = self._latest.get(policy.id)
        return replace(condition, share=latest.count(name) / len(latest)) if latest else condition

    def _narrow(
        self, policy: TenantPolicy, allowed: _Field, asked: Asked, preferred: str | None, answer: str | None
    ) -> Narrowed:
        """Those who may answer; of them the preferred provider's, if there are any."""
        narrowed = narrow(asked, allowed.everybody, policy.routing.rules, answer, allowed.ease)
        if not narrowed.field:
            raise _nothing_left(narrowed)
        if preferred:
            if kept := [one for one in narrowed.field if one.provider == preferred]:
                return Narrowed(kept, narrowed.removed, narrowed.points, narrowed.skipped)
            _refuse_unknown_provider(policy, preferred)
        return narrowed

    def _answered_by(self, conversation: Sequence[_Conversation]) -> str | None:
        """The model that this process last had go on with a conversation."""
        return next((model for key in conversation if (model := self._answering.get(key))), None)

    def _remember(self, conversation: Sequence[_Conversation], model: str) -> None:
        if len(self._answering) >= MOST_REMEMBERED:
            self._answering.clear()
        self._answering.update(dict.fromkeys(conversation, model))

    def _allowed(self, policy: TenantPolicy, token: TokenFacts) -> _Field:
        """The models this token may use. Raises ModelNotAllowed, or NoProviderConfigured where there are none."""
        contestants = policy.routing.contestants
        allowed = _remembered(
            self._fields,
            (policy.id, token.id),
            contestants,
            lambda: _Field.of(tuple(one for name, one in contestants.items() if name in token.models)),
        )
        if not allowed.everybody:
            if contestants:
                raise ModelNotAllowed("This API key may use none of the models to choose from.", param="model")
            raise NoProviderConfigured("There is no chat model to choose from: none has a provider with a usable key.")
        return allowed

    def _candidates_of(self, policy: TenantPolicy, field: Sequence[Contestant]) -> tuple[Candidate, ...]:
        """A part of the field as the engines see it."""
        return _remembered(
            self._candidates,
            (policy.id, *(one.name for one in field)),
            policy.routing.contestants,
            lambda: tuple(map(candidate_of, field)),
        )


def _remembered(
    known: "_Memo[_Key, _Made]", key: _Key, contestants: Mapping[str, Contestant], make: Callable[[], _Made]
) -> _Made:
    """What was made of the very same contestants (prices may change without a new epoch), or is made now."""
    kept = known.get(key)
    if kept is None or kept[0] is not contestants:
        if len(known) >= MOST_REMEMBERED:
            known.clear()
        kept = known[key] = (contestants, make())
    return kept[1]


def _refuse_unknown_words(request: Request) -> None:
    wanted = request.extensions
    if wanted.task_type is not None and wanted.task_type not in TASKS:
        raise InvalidRequest(f"'x-task-type' is none of {', '.join(TASKS)}.", param="x-task-type")
    if wanted.complexity is not None and wanted.complexity not in COMPLEXITIES:
        raise InvalidRequest(f"'x-complexity' is none of {', '.join(COMPLEXITIES)}.", param="x-complexity")


def _refuse_unknown_provider(policy: TenantPolicy, name: str) -> None:
    """Raises InvalidRequest where no model of the tenant is a provider's of this name."""
    models = policy.models.values()
    known = {one.provider_name for one in models} | {target.provider_name for one in models for target in one.targets}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:MOST_NAMED]
        named = f" There {'is' if len(near) == 1 else 'are'} {', '.join(near)}." if near else ""
        raise InvalidRequest(f"There is no provider '{name[:100]}'.{named}", param="x-prefer-provider")


def _judge_probability(router: Router, running: RunningExperiment | None, request: Request) -> float:
    """With which this answer is judged: 0 once the day's money is spent; an experiment's answers more often."""
    probability = router.judge_probability if request.operation == "chat" else 0.0
    return max(probability, running.judge_rate) if running is not None and probability > 0 else probability


def _tools_in_flight(request: Request) -> bool:
    said = request.fields.get("messages", request.fields.get("input"))
    if said is None:
        return False
    text = bytes(said)
    return any(mark in text for mark in _TOOLS_IN_FLIGHT)


def _conversation(token: TokenFacts, session: str | None, text: str) -> list[_Conversation]:
    """What tells which conversation a request goes on with, the surest first. The user's words stay the same while
    tools are called; several agents may share a session."""
    known: list[_Conversation] = [(token.id, session, hash(text))] if text else []
    return known if session is None else [*known, (token.id, session, None)]


def _exploration(policy: TenantPolicy, request: Request) -> Exploration:
    """Never while tools are in flight: another model would go on with calls it has not made."""
    if _tools_in_flight(request):
        return Exploration.NONE
    return Exploration.SHADOW if policy.routing.shadow else Exploration.SERVED


def _nothing_left(narrowed: Narrowed) -> GatewayError:
    """No model qualifies: which filter removed what, and the status of the one that left the least hope."""
    rules = {rule for rule, _ in narrowed.removed.values()}
    kind = next((error for rule, error in _REFUSALS.items() if rule in rules), ModelNotAllowed)
    return kind(f"No model qualifies for this request: {told(narrowed.removed)}.", param="model")
