"""``manage.py apply``: a tenant's router, strategies, experiments and published scores."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit.models import AuditEvent
from gateway.models import Model
from routing.models import Experiment, PublishedScore, RoutingSettings, StrategyChoice
from tenants.models import ApiToken, Tenant
from tests.gateway.test_apply import Applied

pytestmark = pytest.mark.django_db

LAB = '{name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:9110/v1", api_key: sk-lab}'
TOKEN = "acme-token-for-the-tests-0123456789"
WHOLE = f"""
published_scores:
  - {{vendor_model: "gpt-4o*", quality: 0.87, source: "our own tests"}}
tenants:
  - slug: acme
    projects: [{{slug: web, strategy: cost}}, {{slug: app}}]
    providers: [{LAB}]
    models:
      - {{name: small, provider: lab}}
      - {{name: large, provider: lab, routed: false}}
    tokens: [{{name: ci, project: web, value: {{env: ACME_TOKEN}}, strategy: latency}}]
    routing:
      engine: ema
      strategy: quality
      rules:
        - {{rule: cheapest, keep: 4}}
        - {{rule: region, allow: ["eu-*"], soft: true}}
      judge: {{usd_per_day: "2.50", rate: 0.2, model: large, shadow: false}}
      shared_pool: {{reads: true, feeds: true}}
      quality_floor: 0.6
      usd_per_1000_requests: 0.5
      auto_ab: true
      auto_migrate: true
      replay: {{usd_per_week: "1.00"}}
      ema: {{alpha: 0.2, epsilon: 0.05, least_samples: 7}}
    experiments:
      - name: sonnet-or-4o
        task: coding
        arms: [large, small]
        shares: [0.7, 0.3]
        mode: shadow
        sticky: user
        judge_rate: 0.5
        most_days: 14
        most_labels: 500
        promotes: false
        guards: [{{metric: p95, worst_relative: 0.5}}, {{metric: errors, worst_absolute: 0.02, least_requests: 50}}]
    published_scores:
      - {{vendor_model: small, quality: 0.7, source: "a hunch"}}
"""


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Applied:
    monkeypatch.setenv("ACME_TOKEN", TOKEN)
    return Applied(tmp_path / "acme.yaml")


def acme(parts: str) -> str:
    """A tenant with two models; ``parts`` begin on line 7."""
    return f"""tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers: [{LAB}]
    models: [{{name: small, provider: lab}}, {{name: large, provider: lab}}]
    tokens: [{{name: ci, project: web}}]
    {parts}
"""


def trial(fields: str = "") -> str:
    return acme(f"experiments: [{{name: t, arms: [small, large]{fields}}}]")


# ------------------------------------------------------------------ what is created


def test_the_router_is_kept_as_declared(apply: Applied) -> None:
    apply(WHOLE)
    row = RoutingSettings.objects.get(tenant__slug="acme")
    assert (row.engine, row.strategy, row.quality_floor, row.usd_per_1000_requests) == ("ema", "quality", 0.6, 0.5)
    assert row.rules == [{"rule": "cheapest", "keep": 4}, {"rule": "region", "allow": ["eu-*"], "soft": True}]
    assert (row.judge_usd_per_day, row.judge_rate, row.judge_model, row.shadow) == (Decimal("2.5"), 0.2, "large", False)
    assert (row.reads_shared, row.feeds_shared, row.auto_ab, row.auto_migrate) == (True, True, True, True)
    assert (row.replay_usd_per_week, row.ema_alpha, row.ema_epsilon, row.ema_least_samples) == (1, 0.2, 0.05, 7)


def test_strategies_of_projects_and_tokens_are_kept_as_declared(apply: Applied) -> None:
    apply(WHOLE)
    choices = StrategyChoice.objects.select_related("project", "token")
    assert {str(choice.project or choice.token): choice.strategy for choice in choices} == {
        str(ApiToken.objects.get().project): "cost",
        str(ApiToken.objects.get()): "latency",
    }


def test_an_experiment_is_kept_as_declared(apply: Applied) -> None:
    apply(WHOLE)
    row = Experiment.objects.get(tenant__slug="acme", name="sonnet-or-4o")
    assert (row.task, row.complexity, row.arms, row.shares) == ("coding", "", ["large", "small"], [0.7, 0.3])
    assert (row.mode, row.sticky, row.judge_rate, row.status) == ("shadow", "user", 0.5, "running")
    assert (row.most_days, row.most_labels, row.promotes) == (14, 500, False)
    assert row.guards == [
        {"metric": "p95", "worst_relative": 0.5},
        {"metric": "errors", "worst_absolute": 0.02, "least_requests": 50},
    ]


def test_an_arm_that_the_router_may_not_choose_is_warned_of(apply: Applied) -> None:
    apply(WHOLE)
    assert "warning: experiment acme/sonnet-or-4o: the model 'large' is not routed, so it never answers." in apply.err
    apply(WHOLE.replace(", routed: false", ", routed: true"))
    assert "not routed" not in apply.err


def test_published_scores_hold_for_all_or_for_one_tenant(apply: Applied) -> None:
    apply(WHOLE)
    shared, own = PublishedScore.objects.order_by("-quality")
    assert (shared.tenant, shared.vendor_model_pattern, shared.quality) == (None, "gpt-4o*", 0.87)
    assert (own.tenant and own.tenant.slug, own.vendor_model_pattern, own.source) == ("acme", "small", "a hunch")


def test_a_model_can_be_kept_from_the_router(apply: Applied) -> None:
    apply(WHOLE)
    assert dict(Model.objects.values_list("name", "routed")) == {"small": True, "large": False}


def test_what_is_left_out_has_its_usual_value(apply: Applied) -> None:
    apply(acme("routing: {judge: {usd_per_day: 1}}"))
    row = RoutingSettings.objects.get()
    assert (row.engine, row.strategy, row.judge_usd_per_day, row.judge_rate, row.shadow) == (
        "hier", "balanced", 1, 0.1, True,
    )  # fmt: skip


# ------------------------------------------------------------------ again, and differently


def test_a_second_run_changes_nothing_and_says_so(apply: Applied) -> None:
    apply(WHOLE)
    events, epoch = AuditEvent.objects.count(), Tenant.objects.get().policy_epoch
    assert apply(WHOLE).strip() == "Nothing to change: everything is as declared."
    assert (AuditEvent.objects.count(), Tenant.objects.get().policy_epoch) == (events, epoch)


def test_a_plan_shows_what_would_change_and_changes_nothing(apply: Applied) -> None:
    apply(WHOLE)
    told = apply(WHOLE.replace("rate: 0.2", "rate: 0.3").replace("strategy: cost", "strategy: quality"), plan=True)
    assert "~ routing acme\n    judge.rate: 0.2 -> 0.3\n" in told
    assert "~ project acme/web\n    strategy: cost -> quality\n" in told
    assert RoutingSettings.objects.get().judge_rate == 0.2
    assert StrategyChoice.objects.get(token=None).strategy == "cost"


def test_a_change_of_the_router_takes_effect_at_once_and_is_audited(apply: Applied) -> None:
    apply(WHOLE)
    epoch = Tenant.objects.get().policy_epoch
    apply(WHOLE.replace("engine: ema", "engine: hier"))
    assert Tenant.objects.get().policy_epoch > epoch
    assert AuditEvent.objects.get(action="routing.changed").changes == {"engine": ["ema", "hier"]}


@pytest.mark.parametrize("empty", ["", '""'])
def test_an_empty_strategy_takes_the_own_one_away(apply: Applied, empty: str) -> None:
    apply(WHOLE)
    told = apply(WHOLE.replace("strategy: latency", f"strategy: {empty}"))
    assert "~ token acme/web/ci\n    strategy: latency -> (none)\n" in told
    assert not StrategyChoice.objects.filter(project=None).exists()
    assert AuditEvent.objects.filter(action="strategy.removed").count() == 1


def test_a_strategy_that_is_not_mentioned_stays(apply: Applied) -> None:
    apply(WHOLE)
    apply(WHOLE.replace(", strategy: latency", "").replace(", strategy: cost", ""))
    assert StrategyChoice.objects.count() == 2


def test_a_token_that_is_replaced_keeps_its_strategy(apply: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(WHOLE)
    before = ApiToken.objects.get()
    monkeypatch.setenv("ACME_TOKEN", TOKEN[::-1])
    apply(WHOLE.replace(", strategy: latency", ""))
    after = ApiToken.objects.get(revoked_at=None)
    assert after != before
    assert StrategyChoice.objects.get(project=None).token == after
    assert AuditEvent.objects.filter(action="strategy.changed", object_type="routing.strategychoice").count() == 1
    assert apply(WHOLE).strip() == "Nothing to change: everything is as declared."


def test_a_token_can_be_replaced_and_given_another_strategy_in_one_go(
    apply: Applied, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(WHOLE)
    monkeypatch.setenv("ACME_TOKEN", TOKEN[::-1])
    apply(WHOLE.replace("strategy: latency", "strategy: quality"))
    choice = StrategyChoice.objects.get(project=None)
    assert (choice.token, choice.strategy) == (ApiToken.objects.get(revoked_at=None), "quality")


def test_an_experiment_that_has_ended_is_left_alone_with_a_warning(apply: Applied) -> None:
    apply(WHOLE)
    Experiment.objects.update(status="ended", winner="small")
    assert apply(WHOLE.replace("most_days: 14", "most_days: 20")).strip().startswith("Nothing to change")
    assert "warning: experiment acme/sonnet-or-4o has ended and is left alone" in apply.err
    assert Experiment.objects.get().most_days == 14


def test_a_running_experiments_limits_may_change_but_not_what_it_compares(apply: Applied) -> None:
    apply(trial())
    apply(trial(", most_days: 7, promotes: false"))
    row = Experiment.objects.get()
    assert (row.most_days, row.promotes) == (7, False)
    [problem] = apply.refused(trial(", mode: shadow"))
    assert problem.startswith("7: mode: this experiment is running, so what it compares stays")


def test_an_empty_value_clears_what_may_be_empty(apply: Applied) -> None:
    apply(WHOLE)
    cleared = WHOLE.replace("quality_floor: 0.6", "quality_floor:").replace(
        "model: large, shadow", "model: null, shadow"
    )
    apply(cleared.replace("usd_per_1000_requests: 0.5", "usd_per_1000_requests:"))
    row = RoutingSettings.objects.get()
    assert (row.quality_floor, row.usd_per_1000_requests, row.judge_model) == (None, None, "")


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ("routing: {engin: hier}", "7: routing: unknown key 'engin' in a routing; did you mean 'engine'?"),
        ("routing: {judge: {usd: 1}}", "7: routing: judge: unknown key 'usd' in a judge; known are "),
        ("routing: {engine: best}", "7: routing: engine: 'best' is not one of hier, ema, fixed."),
        ("routing: {strategy: cheap}", "7: routing: strategy: 'cheap' is not one of quality, balanced, cost, latency."),
        ("routing: {judge: {rate: 2}}", "7: routing: judge: rate: must be a number from 0 to 1, not 2."),
        ("routing: {judge: {usd_per_day: much}}", "7: routing: judge: usd_per_day: must be an amount in USD"),
        ("routing: {judge: {usd_per_day: 12345678}}", "7: judge.usd_per_day: Ensure that there are no more than"),
        ("routing: {usd_per_1000_requests: 0}", "7: usd_per_1000_requests: Ensure this value is greater"),
        ("routing: {quality_floor: -1}", "7: routing: quality_floor: must be a number"),
        ("routing: {ema: {least_samples: 99999}}", "7: ema.least_samples: Ensure this value is less than"),
        ("routing: {judge: {model: lage}}", "7: judge.model: there is no model 'lage'; did you mean 'large'?"),
        ("experiments: [{name: t}]", "7: an experiment needs 'arms'."),
        ("experiments: [{name: t, arms: [small, medum]}]", "7: arms: there is no model 'medum'"),
        ("experiments: [{name: t, arms: [small]}]", "7: arms: Name at least two models, each once."),
        ("experiments: [{name: t, arms: [small, large], shares: [1]}]", "7: shares: Give each arm a share"),
        ("experiments: [{name: t, arms: [small, large], task: sums}]", "7: task: 'sums' is not one of coding, "),
        ("experiments: [{name: t, arms: [small, large], most_days: 0}]", "7: most_days: must be at least 1."),
        (
            "experiments: [{name: t, arms: [small, large], guards: [{metric: cost}]}]",
            "7: guards: the guard on cost needs one of worst_relative and worst_absolute",
        ),
        ("published_scores: [{vendor_model: x, quality: 87, source: y}]", "7: quality: must be a number from 0 to 1"),
        ("published_scores: [{vendor_model: x, quality: 0.8}]", "7: a published score needs 'source'."),
    ],
)
def test_a_mistake_is_told_with_its_line(apply: Applied, parts: str, problem: str) -> None:
    [told] = apply.refused(acme(parts))
    assert told.startswith(problem)
    assert not Tenant.objects.exists()


@pytest.mark.parametrize("given", ["fast", "5", "[cost]"])
def test_a_strategy_that_is_none_is_refused(apply: Applied, given: str) -> None:
    [told] = apply.refused(WHOLE.replace("strategy: latency", f"strategy: {given}"))
    assert told.startswith("11: strategy: ")


def test_each_part_of_the_judge_is_refused_at_its_own_line(apply: Applied) -> None:
    parts = "routing:\n      judge:\n        rate: 0.1\n        model: lage"
    assert apply.refused(acme(parts)) == ["10: judge.model: there is no model 'lage'; did you mean 'large'?"]


def test_every_rule_that_cannot_be_followed_is_told_at_its_own_line(apply: Applied) -> None:
    parts = """routing:
      rules:
        - {rule: cheapst, keep: 2}
        - {rule: cheapest, keep: 2}
        - {rule: cheapest, keep: none}
        - {rule: region, allow: [eu], allow: [us]}
        - {rule: performance, points: 2026-01-01}
        - cheapest"""
    problems = apply.refused(acme(parts))
    assert [problem.split(":")[0] for problem in problems] == ["9", "11", "12", "13", "14"]
    assert problems[0] == "9: routing: rules: rule 1: there is no rule 'cheapst'; did you mean 'cheapest'?"
    assert problems[1].startswith("11: routing: rules: rule 3 (cheapest): 'keep' must be a whole number")
    assert "the key 'allow' stands here twice" in problems[2]
    assert "must be text, a number, or true or false" in problems[3]
    assert problems[4].startswith("14: routing: rules: rule 6: it must say which rule it is")


def test_a_rule_that_may_stand_there_once_is_refused_the_second_time(apply: Applied) -> None:
    parts = "routing:\n      rules:\n        - {rule: llm}\n        - {rule: llm}"
    assert [problem.split(":")[0] for problem in apply.refused(acme(parts))][-1:] == ["10"]


def test_too_many_rules_are_refused_once(apply: Applied) -> None:
    rules = ", ".join(["{rule: cheapest, keep: 1}"] * 31)
    [problem] = apply.refused(acme(f"routing: {{rules: [{rules}]}}"))
    assert problem == "7: routing: rules: there may be 30 rules at most, these are 31."


def test_a_second_running_experiment_on_a_cell_is_refused(apply: Applied) -> None:
    apply(trial())
    [problem] = apply.refused(acme("experiments: [{name: another, arms: [small, large]}]"))
    assert problem == "7: An experiment is running on this cell; end it first."


def test_an_arm_that_was_refused_itself_is_no_second_problem(apply: Applied) -> None:
    text = trial().replace("{name: large, provider: lab}", "{name: large, provider: lub}")
    [problem] = apply.refused(text)
    assert "there is no provider 'lub'" in problem


def test_a_model_of_the_installation_can_be_an_arm(apply: Applied) -> None:
    shared = f"providers: [{LAB}]\nmodels: [{{name: medium, provider: lab}}]\n"
    apply(shared + acme("experiments: [{name: t, arms: [small, medium]}]"))
    assert Experiment.objects.get().arms == ["small", "medium"]


def test_a_model_of_another_tenant_cannot(apply: Applied, model: Model, other_tenant: Tenant) -> None:
    text: Any = acme("routing: {judge: {model: theirs}}").replace("acme", other_tenant.slug)
    Model.objects.create(tenant=model.tenant, provider=model.provider, name="theirs", vendor_model="x")
    assert apply.refused(text) == ["7: judge.model: there is no model 'theirs'."]


# ------------------------------------------------------------------ the names in rules


def with_rules(*rules: str) -> str:
    lines = "".join(f"        - {rule}\n" for rule in rules)
    return f"""tenants:
  - slug: acme
    providers: [{LAB}]
    models:
      - {{name: small, provider: lab}}
      - {{name: large, provider: lab}}
    routing:
      rules:
{lines}"""


def test_a_rule_that_asks_an_unknown_model_is_refused_at_its_line(apply: Applied) -> None:
    asks = "{rule: llm, model: smal}"
    assert apply.refused(with_rules("{rule: cheapest, keep: 4}", asks)) == [
        "10: rule 2: there is no model 'smal'; did you mean 'small'?"
    ]
    assert not RoutingSettings.objects.exists()
    apply(with_rules("{rule: cheapest, keep: 4}", asks.replace("smal", "small")))
    assert RoutingSettings.objects.get().rules == [
        {"rule": "cheapest", "keep": 4},
        {"rule": "llm", "model": "small"},
    ]


def test_a_pattern_that_means_no_model_is_named_with_its_line(apply: Applied) -> None:
    apply(with_rules('{rule: models, allow: ["sm*", "lab/large", "gtp-*"]}', '{rule: models, deny: ["old/*"]}'))
    assert [line for line in apply.err.splitlines() if "called" in line] == [
        "warning: line 9: rule 1 of acme: no model is called 'gtp-*'.",
        "warning: line 10: rule 2 of acme: no model is called 'old/*'.",
    ]
    assert len(RoutingSettings.objects.get().rules) == 2
