"""From a request to models in order: what is allowed, preferred, weighed, tried out and judged."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotAllowed,
    NoProviderConfigured,
    Overloaded,
    UnsupportedContent,
)
from gateway.policy import ModelFacts, NamePatterns, TenantPolicy, TokenFacts
from gateway.selection import MOST_TRIED, Selection, Selector
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.openai_embeddings import parse_request as parse_embeddings
from gateway.wire.types import Request
from routing.candidates import WELL, Condition, Contestant
from routing.experiments import Experiment
from routing.facts import Ramp, RoutingFacts, RunningExperiment
from routing.routers import LearningRouter, Router, new_engine, pool_of
from routing.rules import check_rules

HARD = "Write a Python function that sorts a list of dictionaries by a key, with tests."
CONTESTANTS = {
    "cheap": Contestant("cheap", "lab", input_price=0.1, output_price=0.4, context_window=8_000),
    "middle": Contestant("middle", "lab", input_price=1.0, output_price=4.0),
    "dear": Contestant("dear", "claude", input_price=10.0, output_price=40.0, capabilities=frozenset({"tools"})),
}
QUALITY = {"cheap": 0.74, "middle": 0.77, "dear": 0.8}


def model(name: str, provider: str = "lab") -> ModelFacts:
    return ModelFacts(
        name=name, modality="chat", fallbacks=(), targets=(), provider_name=provider, vendor_model=name,
        context_window=None, capabilities=frozenset(), created_at=0,
    )  # fmt: skip


def policy(contestants: Mapping[str, Contestant] = CONTESTANTS, **routing: Any) -> TenantPolicy:
    check_rules(routing.get("rules", ()))
    facts = RoutingFacts(**({"contestants": contestants, "published": QUALITY} | routing))
    models = {name: model(name, one.provider) for name, one in contestants.items()}
    return TenantPolicy(id="t", slug="acme", epoch=1, models=models, aliases={}, log_content=False, routing=facts)


def token(*models: str, **changed: Any) -> TokenFacts:
    made = TokenFacts(
        id="token", name="ci", tenant_id="t", project_id="project", scopes=frozenset({"inference"}),
        models=NamePatterns(models or ("*",)), networks=(), requests_per_minute=0, expires_at=None, revoked=False,
    )  # fmt: skip
    return replace(made, **changed)


def asked(name: str = "auto", text: str = HARD, **fields: Any) -> Request:
    body = {"model": name, "messages": [{"role": "user", "content": text}]} | fields
    return openai_chat.parse_request(msgspec.json.encode(body), {})


class Here:
    """Routers of published quality, and conditions as a test sets them."""

    def __init__(self, judge_probability: float = 0.0, **conditions: Condition) -> None:
        self.conditions, self.judge_probability = conditions, judge_probability
        self._routers: dict[int, Router] = {}

    @property
    def all_well(self) -> bool:
        return not any(one.circuit_open or one.paused_s for one in self.conditions.values())

    def condition_of(self, policy: TenantPolicy, model: ModelFacts) -> Condition:
        return self.conditions.get(model.name, WELL)

    def has_looked(self, policy: TenantPolicy) -> bool:
        return True

    async def look(self, policy: TenantPolicy) -> None:
        raise AssertionError("there is nothing to wait for")

    def router_of(self, policy: TenantPolicy) -> Router:
        facts = policy.routing
        router = self._routers.get(id(facts))
        if router is None:
            router = LearningRouter(new_engine(facts), pool_of(facts), quality_floor=facts.quality_floor)
            router.judge_probability = self.judge_probability
            self._routers[id(facts)] = router
        return router


def selector(judge_probability: float = 0.0, **conditions: Condition) -> Selector:
    here = Here(judge_probability, **conditions)
    return Selector(here, here, seed=3)


def select(request: Request | None = None, known: TenantPolicy | None = None, **conditions: Condition) -> Selection:
    return selector(**conditions).select(known or policy(), token(), request or asked(), "r-1")


def names(selection: Selection) -> list[str]:
    return [one.name for one in selection.models]


# ---------------------------------------------------------------------- strategies


@pytest.mark.parametrize(("name", "chosen"), [("auto", "middle"), ("cheap", "cheap"), ("best", "dear")])
def test_a_virtual_name_stands_for_a_strategy(name: str, chosen: str) -> None:
    contestants = {f"m-{one}": replace(CONTESTANTS[one], name=f"m-{one}") for one in CONTESTANTS}
    known = policy(contestants, published={f"m-{one}": quality for one, quality in QUALITY.items()})
    assert names(select(asked(name), known))[0] == f"m-{chosen}"


def test_a_request_goes_before_its_token_that_before_its_project_and_that_before_the_tenant() -> None:
    known = policy(strategy="cost", strategies={"token": "quality", "project": "latency"})
    here = selector()
    assert here.select(known, token(), asked(**{"x-routing-strategy": "balanced"}), "r").strategy == "balanced"
    assert here.select(known, token(), asked(), "r").strategy == "quality"
    assert here.select(known, token(id="another"), asked(), "r").strategy == "latency"
    assert here.select(known, token(id="another", project_id="another"), asked(), "r").strategy == "cost"
    assert here.select(known, token(), asked("fast"), "r").strategy == "latency"


def test_the_same_request_is_answered_alike_where_nothing_is_tried_out() -> None:
    here = selector()
    chosen = [here.select(policy(), token(), asked(), f"r-{number}") for number in range(20)]
    assert {(one.choice.model, one.choice.propensity, one.explored) for one in chosen} == {("middle", 1.0, False)}


# ---------------------------------------------------------------------- who qualifies


def test_only_what_the_token_may_use_is_tried() -> None:
    found = selector().select(policy(), token("cheap", "dear"), asked(), "r")
    assert sorted(names(found)) == ["cheap", "dear"]
    with pytest.raises(ModelNotAllowed):
        selector().select(policy(), token("nothing"), asked(), "r")
    with pytest.raises(NoProviderConfigured):
        selector().select(policy({}), token(), asked(), "r")


def test_no_more_than_a_few_models_are_tried() -> None:
    many = {f"m{number}": Contestant(f"m{number}", input_price=1.0, output_price=1.0) for number in range(9)}
    assert len(names(select(known=policy(many)))) == MOST_TRIED


def test_the_preferred_provider_answers_where_it_can() -> None:
    assert names(select(asked(**{"x-prefer-provider": "claude"}))) == ["dear"]
    assert "claude" not in select(asked(**{"x-prefer-provider": "claude"})).choice.reason


def test_a_preferred_provider_that_cannot_answer_is_passed_over_and_the_reason_says_so() -> None:
    found = select(asked(**{"x-prefer-provider": "claude"}), dear=Condition(circuit_open=True))
    assert "dear" not in names(found)
    assert found.as_metadata()["reason"].endswith("; no model of 'claude' qualifies")


def test_a_preferred_provider_that_there_is_not_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InvalidRequest, match=r"no provider 'cluade'\. There is claude") as refused:
        select(asked(**{"x-prefer-provider": "cluade"}))
    assert refused.value.param == "x-prefer-provider"
    with pytest.raises(InvalidRequest, match="There are claude, lab"):
        select(asked(**{"x-prefer-provider": "zzzzzz"}))


def test_what_qualifies_nobody_is_told_with_the_status_of_the_filter() -> None:
    unable = {"cheap": replace(CONTESTANTS["cheap"], capabilities=frozenset({"streaming"}))}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with pytest.raises(UnsupportedContent, match="capability removed cheap"):
        select(asked(tools=tools), policy(unable))
    with pytest.raises(ContextLengthExceeded, match="context removed cheap"):
        select(asked(text="word " * 60_000), policy({"cheap": CONTESTANTS["cheap"]}))
    down = {name: Condition(circuit_open=True) for name in CONTESTANTS}
    with pytest.raises(Overloaded, match="health removed"):
        select(**down)
    ruled = policy(rules=({"rule": "models", "deny": ["*"]},))
    with pytest.raises(ModelNotAllowed):
        select(known=ruled)


def test_a_model_that_is_down_is_passed_over_and_named() -> None:
    found = select(middle=Condition(circuit_open=True))
    assert "middle" not in names(found)
    assert list(found.as_metadata()["removed"]) == ["middle"]
    assert found.as_metadata()["removed"]["middle"].startswith("health: ")


def test_only_chat_is_routed() -> None:
    embeddings = parse_embeddings(b'{"model": "auto", "input": "x"}', {})
    with pytest.raises(InvalidRequest, match="name a model"):
        select(embeddings)


@pytest.mark.parametrize("words", [{"x-task-type": "cooking"}, {"x-complexity": "vast"}])
def test_tasks_that_there_are_not_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        select(asked(**words))


def test_a_caller_may_say_what_the_task_is() -> None:
    features = select(asked(**{"x-task-type": "math", "x-complexity": "complex"})).features
    assert (features.task, features.complexity) == ("math", "complex")


def test_a_price_that_changed_without_a_new_epoch_is_seen() -> None:
    here = selector()
    known = policy()
    assert here.select(known, token(), asked(), "r").choice.model == "middle"
    dearer = {**CONTESTANTS, "middle": replace(CONTESTANTS["middle"], input_price=100.0, output_price=400.0)}
    again = here.select(policy(dearer), token(), asked(), "r")
    assert again.choice.model == "dear"


# ---------------------------------------------------------------------- rules that ask how models do


def test_fairness_goes_by_the_latest_requests_of_the_tenant() -> None:
    here = selector()
    known = policy(rules=({"rule": "fairness", "most_share": 0.6},))
    counts = Counter(here.select(known, token(), asked(), f"r-{number}").choice.model for number in range(200))
    assert counts["middle"] / 200 == pytest.approx(0.6, abs=0.05)
    other = replace(policy(rules=({"rule": "fairness", "most_share": 0.6},)), id="another tenant")
    assert here.select(other, token(), asked(), "r").choice.model == "middle"


def test_points_of_rules_move_the_choice() -> None:
    known = policy(rules=({"rule": "budget_remaining", "points": 0.2},))
    left = {"cheap": Condition(budget_left=1.0), "middle": Condition(budget_left=0.1), "dear": Condition(budget_left=0)}
    found = select(known=known, **left)
    assert found.choice.model == "cheap"
    assert found.decision.table().columns(found.decision.model)["points"] == pytest.approx([0.2, 0.02, 0.0])


def test_the_quality_floor_holds() -> None:
    assert select(asked("cheap"), policy(quality_floor=0.78)).choice.model == "dear"


# ---------------------------------------------------------------------- a model that is asked which model


def llm(**options: Any) -> TenantPolicy:
    rule = {"rule": "llm", "model": "cheap", "timeout_s": 0.5, "descriptions": {"dear": "for poems"}} | options
    return policy(rules=({"rule": "models", "deny": ["middle"]}, rule))


def test_a_model_is_asked_about_those_that_are_left() -> None:
    question = selector().question(llm(), token(), asked())
    assert question is not None
    assert (question.model, question.timeout_s) == ("cheap", 0.5)
    assert "for poems" in question.text
    assert "middle" not in question.text


def test_nobody_is_asked_without_such_a_rule_or_a_choice() -> None:
    assert selector().question(policy(), token(), asked()) is None
    assert selector().question(llm(), token("dear"), asked()) is None
    assert selector().question(llm(model="gone"), token(), asked()) is None


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [('{"models": ["dear"]}', {"dear"}), ("I do not know", {"cheap", "dear"}), (None, {"cheap", "dear"})],
)
def test_the_answer_is_followed_where_it_names_a_candidate(answer: str | None, chosen: set[str]) -> None:
    found = selector().select(llm(), token(), asked(), "r", answer)
    assert set(names(found)) == chosen


# ---------------------------------------------------------------------- judging and trying out


def many(here: Selector, known: TenantPolicy, request: Request, count: int = 400) -> list[Selection]:
    return [here.select(known, token(), request, f"r-{number}") for number in range(count)]


def test_answers_are_judged_with_the_probability_that_is_kept() -> None:
    found = many(selector(0.25), policy(judges=True), asked())
    assert sum(one.judged for one in found) / 400 == pytest.approx(0.25, abs=0.07)
    assert {one.judge_probability for one in found} == {0.25}


def test_challengers_are_drawn_for_judged_answers_only_and_never_served() -> None:
    found = many(selector(0.5), policy(judges=True), asked())
    assert {one.choice.model for one in found} == {"middle"}
    assert not any(one.explored for one in found)
    for one in found:
        assert (one.choice.challenger is not None) == one.judged
        assert one.choice.challenger != one.choice.model
        assert one.choice.challenger is None or 0 < (one.choice.challenger_propensity or 0) <= 1


def test_without_shadow_calls_judged_answers_may_be_exploratory() -> None:
    found = many(selector(0.5), policy(judges=True, shadow=False), asked())
    explored = [one for one in found if one.explored]
    assert explored
    assert all(one.judged and one.choice.challenger is None for one in explored)
    assert all(0 < one.choice.propensity < 1 for one in explored)
    assert {one.choice.model for one in found if not one.judged} == {"middle"}


def test_nobody_judges_where_the_tenant_does_not_pay_for_it() -> None:
    assert not any(one.judged for one in many(selector(1.0), policy(judges=False), asked(), 50))
    assert not any(one.judged for one in many(selector(0.0), policy(judges=True), asked(), 50))


IN_FLIGHT = (
    asked(
        messages=[
            {"role": "user", "content": HARD},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        ]
    ),
    anthropic_messages.parse_request(
        msgspec.json.encode(
            {
                "model": "auto",
                "max_tokens": 5,
                "messages": [
                    {"role": "user", "content": HARD},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "4"}]},
                ],
            }
        ),
        {},
    ),
    openai_responses.parse_request(
        msgspec.json.encode(
            {
                "model": "auto",
                "input": [
                    {"role": "user", "content": HARD},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "4"},
                ],
            }
        ),
        {},
    ),
)


@pytest.mark.parametrize("request_", IN_FLIGHT, ids=lambda request: request.dialect)
@pytest.mark.parametrize("shadow", [True, False])
def test_nothing_is_tried_out_while_tools_are_in_flight(request_: Request, shadow: bool) -> None:
    found = many(selector(1.0), policy(judges=True, shadow=shadow), request_, 40)
    assert {one.choice.model for one in found} == {"middle"}
    assert {(one.choice.challenger, one.explored, one.judged) for one in found} == {(None, False, True)}
    design = Experiment("e", "e", "", "", ("cheap", "dear"), sticky="request")
    split = policy(experiments=(RunningExperiment(design, 1.0),), ramps=(Ramp("r", "", "", "", "dear", 50),))
    assert {one.choice.by for one in many(selector(), split, request_, 40)} == {"hier"}


# ---------------------------------------------------------------------- agents

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def step(number: int, text: str = HARD, **fields: Any) -> Request:
    """Of an agent: the user's words, then so many calls of a tool and what they gave."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    for call in range(number):
        function = {"name": "f", "arguments": "{}"}
        calls = [{"id": f"c{call}", "type": "function", "function": function}]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages.append({"role": "tool", "tool_call_id": f"c{call}", "content": "4"})
    return asked(messages=messages, **({"tools": TOOLS} | fields))


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, one in CONTESTANTS.items():
        monkeypatch.setitem(CONTESTANTS, name, replace(one, capabilities=frozenset()))


@pytest.mark.usefixtures("able")
def test_an_agents_steps_stay_with_the_model_whose_calls_are_in_flight() -> None:
    here, first, later = selector(), policy(), policy(published=QUALITY | {"middle": 0.2})
    assert here.select(first, token(), step(0), "r-0").choice.model == "middle"
    for number in (1, 2):
        found = here.select(later, token(), step(number), f"r-{number}")
        assert (found.choice.model, found.choice.propensity, found.explored) == ("middle", 1.0, False)
        assert names(found)[0] == "middle"
        assert found.choice.reason == "middle: goes on with the calls of tools that it has made"
    assert here.select(later, token(id="another"), step(1), "r").choice.model != "middle"
    assert here.select(later, token(), step(0), "r").choice.model != "middle"


@pytest.mark.usefixtures("able")
def test_an_agent_whose_model_does_not_qualify_any_more_goes_on_with_another() -> None:
    here, first = selector(), policy()
    here.select(first, token(), step(0), "r-0")
    denied = policy(rules=({"rule": "models", "deny": ["middle"]},))
    assert here.select(denied, token(), step(1), "r-1").choice.model != "middle"


@pytest.mark.usefixtures("able")
def test_two_agents_of_one_session_keep_their_models_and_new_words_keep_the_sessions() -> None:
    here, first, session = selector(), policy(), {"x-session-id": "s-1"}
    later = policy(published=QUALITY | {"middle": 0.2})
    assert here.select(first, token(), step(0, **session), "r-0").choice.model == "middle"
    other = here.select(later, token(), step(0, "Hi there.", **session), "r-1").choice.model
    assert other != "middle"
    assert here.select(first, token(), step(1, "Hi there.", **session), "r-2").choice.model == other
    assert here.select(later, token(), step(1, **session), "r-3").choice.model == "middle"
    assert here.select(later, token(), step(2, "And then?", **session), "r-4").choice.model == "middle"


# ---------------------------------------------------------------------- experiments and ramps


def experiment(**changed: Any) -> RunningExperiment:
    values: dict[str, Any] = {"id": "e", "name": "a or b", "task": "", "complexity": "", "arms": ("cheap", "dear")}
    return RunningExperiment(Experiment(**(values | changed)), judge_rate=1.0)


def test_an_experiment_serves_its_arms_and_the_others_follow_when_they_fail() -> None:
    found = many(selector(), policy(experiments=(experiment(sticky="request"),)), asked(), 100)
    assert {one.choice.model for one in found} == {"cheap", "dear"}
    assert all(names(one)[0] == one.choice.model and len(names(one)) == 3 for one in found)
    assert {one.as_metadata()["experiment"] for one in found} == {"a or b"}


@pytest.mark.parametrize("words", [{"x-session-id": "s-1"}, {"user": "ann"}])
def test_a_session_or_user_stays_with_its_arm(words: dict[str, str]) -> None:
    sticky = "session" if "x-session-id" in words else "user"
    found = many(selector(), policy(experiments=(experiment(sticky=sticky),)), asked(**words), 40)
    assert len({one.choice.model for one in found}) == 1


def test_the_answers_of_an_experiment_are_judged_more_often_while_money_lasts() -> None:
    tested = policy(judges=True, experiments=(experiment(),))
    assert all(one.judged for one in many(selector(0.1), tested, asked(), 50))
    assert not any(one.judged for one in many(selector(0.0), tested, asked(), 50))


def test_an_experiment_whose_arm_does_not_qualify_leaves_everything_as_it_is() -> None:
    tested = policy(judges=True, experiments=(experiment(),))
    here = selector(0.3, dear=Condition(circuit_open=True))
    found = many(here, tested, asked())
    assert {one.choice.by for one in found} == {"hier"}
    assert {one.judge_probability for one in found} == {0.3}
    assert any(one.choice.challenger for one in found)


def test_a_ramp_moves_its_share_of_requests() -> None:
    ramp = Ramp("r", "", "", "middle", "cheap", 25)
    counts = Counter(one.choice.by for one in many(selector(), policy(ramps=(ramp,)), asked()))
    assert counts["ramp"] / 400 == pytest.approx(0.25, abs=0.07)


def test_a_rule_that_is_skipped_is_told_in_the_reason() -> None:
    rules = ({"rule": "region", "allow": ["nowhere"], "soft": True},)
    found = select(known=policy(rules=rules))
    assert "the rule 'region' was skipped (would have removed" in found.choice.reason


def test_an_alias_of_a_way_to_choose_chooses_by_it() -> None:
    aliased = replace(policy(), aliases={"clever": "best", "auto": "cheap"})
    for name, strategy in (("clever", "quality"), ("auto", "cost"), ("fast", "latency")):
        assert aliased.leaves_choice(name)
        assert select(asked(name), aliased).strategy == strategy
