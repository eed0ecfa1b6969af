"""``manage.py apply``: budgets, rate limits, plans, channels and alert rules."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from audit.models import AuditEvent
from audit.record import Actor
from billing.models import AlertChannel, AlertRule, Budget, BudgetPeriod, Plan, RateLimit, Subscription
from tenants.models import ApiToken, Tenant
from tests.gateway.test_apply import Applied

pytestmark = pytest.mark.django_db

SIGNING_SECRET = "whsec-canary-0123456789"
LAB = '{name: lab, kind: openai-compatible, base_url: "http://127.0.0.1:9110/v1", api_key: sk-lab}'
WHOLE = f"""
plans:
  - {{name: team, monthly_requests: 1000, monthly_tokens: 5000000, seats: 5, retention_days: 30, features: [judge, webhooks]}}
budgets:
  - {{name: everything, scope: installation, limit: {{usd: 10000}}, period: month}}
channels:
  - {{name: operators, kind: email, address: "ops@example.com, night@example.com"}}
alert_rules:
  - {{name: slow, kind: latency_p95, threshold: 2500, window: 15m, channels: [operators]}}
tenants:
  - slug: acme
    projects: [{{slug: web}}, {{slug: app}}]
    providers: [{LAB}]
    models: [{{name: small, provider: lab}}]
    tokens: [{{name: ci, project: web}}, {{name: bot, project: web}}, {{name: bot, project: app}}]
    plan: {{name: team, overrides: {{monthly_requests: 2000}}, discount_percent: 5}}
    budgets:
      - {{name: ci-month, scope: token, of: ci, limit: {{usd: "100.00"}}, period: month, hard: true, alerts: [100, 50, 80]}}
      - {{name: web-day, scope: project, of: web, limit: {{requests: 5000}}, period: day, hard: false}}
      - {{name: bot, scope: token, of: app/bot, limit: {{tokens: 9}}, rolling: 24h, enabled: false}}
      - {{name: each-user, scope: user, of: "*", limit: {{usd: 0.000000000001}}, period: total}}
      - {{name: by-key, scope: key, of: campaign, limit: {{usd: 1}}, period: week}}
      - {{name: by-model, scope: model, of: small, limit: {{usd: 1}}, period: hour}}
      - {{name: by-provider, scope: provider, of: lab, limit: {{usd: 1}}, period: quarter}}
      - {{name: all, scope: tenant, limit: {{usd: 1}}}}
    limits:
      - {{scope: token, of: ci, requests_per_minute: 600, tokens_per_minute: 100000, concurrent: 50}}
      - {{scope: tenant, requests_per_minute: 6000}}
      - {{scope: user, of: "*", concurrent: 2}}
    channels:
      - {{name: hook, kind: webhook, address: "https://hooks.example.com/in", secret: {{env: HOOK_SECRET}}}}
      - {{name: chat, kind: slack, address: "https://chat.example.com/T1/B1", enabled: false}}
    alert_rules:
      - {{name: ci-budget, kind: budget, budget: ci-month, threshold: 80, channels: [hook, chat]}}
      - {{name: errors, kind: error_rate, threshold: 5.5, window: 1h, cooldown: 2h, project: web, model: small}}
"""


@pytest.fixture
def apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Applied:
    monkeypatch.setenv("HOOK_SECRET", SIGNING_SECRET)
    return Applied(tmp_path / "acme.yaml")


def acme(parts: str) -> str:
    return f"tenants:\n  - slug: acme\n    projects: [{{slug: web}}, {{slug: app}}]\n    {parts}\n"


def one_budget(fields: str) -> str:
    return acme(f"budgets: [{{name: b, {fields}}}]")


# ------------------------------------------------------------------ what a plan shows


def test_a_plan_says_everything_in_the_files_words(apply: Applied) -> None:
    told = apply(WHOLE, plan=True)
    assert "(none)" not in told
    assert "    limit: 5000 requests\n    period: day\n    hard: false\n" in told
    assert "    limit: 9 tokens\n    period: rolling\n    rolling: 24h\n" in told
    assert "    window: 1h\n    cooldown: 2h\n" in told
    assert "    rolling: 90m\n" in apply(one_budget("scope: tenant, limit: {usd: 1}, rolling: 90m"))
    rule = acme("alert_rules: [{name: slow, kind: latency_p95, threshold: 1, window: 15m}]")
    apply(rule)
    assert "    window: 15m -> 2d\n" in apply(rule.replace("15m", "2d"))


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("{input: 0, output: 0}", "{input: 0, output: 0}"),
        ("{input: 1.50, output: 6, cached_input: 0}", "{input: 1.5, output: 6, cached_input: 0}"),
        ("{input: 0, output: 0, per_request: 0.01}", "{input: 0, output: 0, per_request: 0.01}"),
    ],
)
def test_a_price_of_nothing_is_shown_as_one(apply: Applied, price: str, said: str) -> None:
    text = acme(f"providers: [{LAB}]\n    models: [{{name: small, provider: lab, price: {price}}}]")
    assert f"    price: {said}\n" in apply(text, plan=True)
    apply(text)
    assert f"    price: {said} -> {{input: 7, output: 7}}\n" in apply(text.replace(price, "{input: 7, output: 7}"))


def test_a_new_price_of_many_models_is_created_and_another_one_a_change(apply: Applied) -> None:
    def priced(price: str) -> str:
        return apply(f'prices: [{{kind: groq, vendor_model: "llama-*", {price}}}]')

    told = priced("input: 0, output: 0.08")
    assert "+ price groq/llama-*\n    price: {input: 0, output: 0.08}\nApplied: 1 created, 0 changed." in told
    told = priced("input: 0.05, output: 0.08")
    assert "~ price groq/llama-*\n    price: {input: 0, output: 0.08} -> {input: 0.05, output: 0.08}\n" in told
    assert "Applied: 0 created, 1 changed." in told


# ------------------------------------------------------------------ what is created


def test_budgets_are_kept_as_declared(apply: Applied) -> None:
    apply(WHOLE)
    kept = {budget.name: budget for budget in Budget.objects.select_related("project", "token__project", "tenant")}
    ci = kept["ci-month"]
    assert (ci.scope, ci.token and ci.token.name, ci.metric, ci.cap) == ("token", "ci", "usd", Decimal(100))
    assert (ci.period, ci.hard, ci.thresholds, ci.enabled) == ("month", True, [50, 80, 100], True)
    web = kept["web-day"]
    assert (web.project and web.project.slug, web.metric, web.hard) == ("web", "requests", False)
    assert web.thresholds == [50, 75, 80, 90, 95, 100]
    bot = kept["bot"]
    assert bot.token is not None
    assert (bot.token.project.slug, bot.period, bot.rolling_s, bot.enabled) == ("app", "rolling", 86_400, False)
    assert (kept["each-user"].subject, kept["each-user"].cap) == ("*", Decimal("0.000000000001"))
    subjects = {name: kept[name].subject for name in ("by-key", "by-model", "by-provider", "all")}
    assert subjects == {"by-key": "campaign", "by-model": "small", "by-provider": "lab", "all": ""}
    assert (kept["everything"].tenant, kept["everything"].scope) == (None, "installation")


def test_limits_are_kept_as_declared(apply: Applied) -> None:
    apply(WHOLE)
    kept = {limit.scope: limit for limit in RateLimit.objects.select_related("token")}
    ci = kept["token"]
    assert (ci.token and ci.token.name, ci.requests_per_minute, ci.tokens_per_minute, ci.concurrent) == (
        "ci", 600, 100_000, 50,
    )  # fmt: skip
    assert (kept["tenant"].requests_per_minute, kept["tenant"].concurrent) == (6000, None)
    assert (kept["user"].subject, kept["user"].concurrent) == ("*", 2)


def test_a_plan_becomes_the_tenants_quotas(apply: Applied) -> None:
    apply(WHOLE)
    subscription = Subscription.objects.get(tenant__slug="acme")
    assert (subscription.plan.name, subscription.discount_percent) == ("team", Decimal(5))
    assert (subscription.terms()["monthly_requests"], subscription.terms()["retention_days"]) == (2000, 30)
    quotas = Budget.objects.filter(is_quota=True).order_by("metric")
    assert [(q.metric, q.cap, q.scope, q.period, q.hard) for q in quotas] == [
        ("requests", 2000, "tenant", "month", True),
        ("tokens", 5_000_000, "tenant", "month", True),
    ]


def test_channels_and_rules_are_kept_as_declared(apply: Applied) -> None:
    apply(WHOLE)
    hook = AlertChannel.objects.get(name="hook")
    assert (hook.kind, hook.enabled, hook.reveal_secret()) == ("webhook", True, SIGNING_SECRET)
    assert SIGNING_SECRET.encode() not in bytes(hook.secret_ciphertext)
    assert not AlertChannel.objects.get(name="chat").enabled
    assert AlertChannel.objects.get(name="operators").recipients() == ["ops@example.com", "night@example.com"]
    on_budget = AlertRule.objects.get(name="ci-budget")
    assert (on_budget.budget and on_budget.budget.name, on_budget.threshold) == ("ci-month", 80)
    assert set(on_budget.channels.values_list("name", flat=True)) == {"hook", "chat"}
    errors = AlertRule.objects.get(name="errors")
    assert (errors.threshold, errors.window_minutes, errors.cooldown_minutes) == (Decimal("5.5"), 60, 120)
    assert (errors.project and errors.project.slug, errors.model_name) == ("web", "small")
    assert AlertRule.objects.get(name="slow").tenant is None


def test_a_second_run_changes_nothing_and_says_so(apply: Applied) -> None:
    text = WHOLE
    apply(text)
    events, epoch = AuditEvent.objects.count(), Tenant.objects.get().policy_epoch
    assert apply(text).strip() == "Nothing to change: everything is as declared."
    assert AuditEvent.objects.count() == events
    assert Tenant.objects.get().policy_epoch == epoch


def test_every_change_is_in_the_audit_trail_without_secrets(apply: Applied) -> None:
    shown = apply(WHOLE)
    acts = set(AuditEvent.objects.values_list("action", flat=True))
    assert acts >= {
        "budget.created", "rate_limit.created", "plan.created", "subscription.created", "alert_channel.created",
        "alert_rule.created", "alert_rule.changed",
    }  # fmt: skip
    kept = json.dumps([event.changes for event in AuditEvent.objects.all()])
    assert '"secret_ciphertext": [null, "***"]' in kept
    assert SIGNING_SECRET not in kept
    assert SIGNING_SECRET not in shown


def test_a_new_budget_is_shown_as_the_file_says_it(apply: Applied) -> None:
    shown = apply(WHOLE)
    assert "+ budget acme/ci-month\n    scope: token\n    of: ci\n    limit: 100 usd\n    period: month" in shown
    assert "+ rate limit acme/token/ci" in shown
    assert "+ subscription acme\n    name: team" in shown
    assert "quota-requests: 2000 a month, refused beyond" in shown
    assert "    secret: (set)" in shown


# ------------------------------------------------------------------ what is changed


def test_a_changed_cap_keeps_what_was_spent_and_is_held(apply: Applied) -> None:
    apply(WHOLE)
    budget = Budget.objects.get(name="ci-month")
    BudgetPeriod.objects.create(
        tenant=budget.tenant, budget=budget, starts_at=datetime(2026, 11, 1, tzinfo=UTC), spent=40, held=2
    )
    told = apply(WHOLE.replace('usd: "100.00"', 'usd: "250.5"'))
    assert "~ budget acme/ci-month\n    limit: 100 -> 250.5\n" in told
    changed = Budget.objects.get(name="ci-month")
    assert (changed.pk, changed.cap) == (budget.pk, Decimal("250.5"))
    assert list(changed.periods.values_list("spent", "held")) == [(40, 2)]
    assert AuditEvent.objects.filter(action="budget.changed", object_id=str(budget.pk)).exists()


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("scope: tenant, limit: {usd: 1}, period: month", "scope: key, of: x, limit: {usd: 1}, period: month", "scope"),
        ("scope: key, of: x, limit: {usd: 1}", "scope: key, of: y, limit: {usd: 1}", "of"),
        ("scope: project, of: web, limit: {usd: 1}", "scope: project, of: app, limit: {usd: 1}", "of"),
        ("scope: tenant, limit: {usd: 1}", "scope: tenant, limit: {tokens: 1}", "limit"),
        ("scope: tenant, limit: {usd: 1}, period: month", "scope: tenant, limit: {usd: 1}, period: day", "period"),
        ("scope: tenant, limit: {usd: 1}, rolling: 1h", "scope: tenant, limit: {usd: 1}, rolling: 2h", "rolling"),
    ],
)
def test_what_a_budget_is_counted_by_never_changes(apply: Applied, before: str, after: str, key: str) -> None:
    apply(one_budget(before))
    [problem] = apply.refused(one_budget(after))
    assert problem.startswith(f"4: {key}: A budget keeps its ")
    assert problem.endswith("declare a new one.")


def test_a_replaced_token_takes_its_budget_and_limit_along(apply: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    text = acme(
        "tokens: [{name: ci, project: web, value: {env: CI_TOKEN}}]\n"
        "    budgets: [{name: b, scope: token, of: ci, limit: {usd: 1}}]\n"
        "    limits: [{scope: token, of: ci, concurrent: 3}]"
    )
    monkeypatch.setenv("CI_TOKEN", "first-token-for-the-tests-0123456789")
    apply(text)
    budget = Budget.objects.get()
    monkeypatch.setenv("CI_TOKEN", "second-token-for-the-tests-012345678")
    apply("tenants: [{slug: acme, tokens: [{name: ci, project: web, value: {env: CI_TOKEN}}]}]")
    live = ApiToken.objects.get(revoked_at=None)
    assert (Budget.objects.get().pk, Budget.objects.get().token, RateLimit.objects.get().token) == (
        budget.pk, live, live,
    )  # fmt: skip
    assert "Nothing to change" in apply(text)


def test_a_token_rotated_elsewhere_is_followed_by_name(apply: Applied, actor: Actor) -> None:
    text = acme(
        "tokens: [{name: ci, project: web}]\n"
        "    budgets: [{name: b, scope: token, of: ci, limit: {usd: 1}}]\n"
        "    limits: [{scope: token, of: ci, concurrent: 3}]"
    )
    apply(text)
    live, _ = ApiToken.objects.get().rotate(actor)
    apply(text)
    assert Budget.objects.get().token == live
    assert RateLimit.objects.get().token == live


def test_a_limit_is_lifted_by_saying_nothing_for_it(apply: Applied) -> None:
    apply(WHOLE)
    told = apply(acme("limits: [{scope: token, of: ci, concurrent: }]"))
    assert "~ rate limit acme/token/ci\n    concurrent: 50 -> (none)" in told
    assert RateLimit.objects.get(scope="token").requests_per_minute == 600


def test_a_changed_plan_changes_the_quotas_of_all_who_are_on_it(apply: Applied) -> None:
    apply(WHOLE)
    told = apply("plans: [{name: team, monthly_tokens: , monthly_requests: 10, overage: true}]")
    assert "quotas: changed for acme" in told
    quotas = {quota.metric: quota for quota in Budget.objects.filter(is_quota=True)}
    assert (quotas["requests"].cap, quotas["requests"].hard) == (2000, False)
    assert not quotas["tokens"].enabled
    apply("plans: [{name: team, monthly_tokens: 7}]")
    again = Budget.objects.get(metric="tokens", is_quota=True)
    assert (again.pk, again.cap, again.enabled) == (quotas["tokens"].pk, 7, True)


WANTED = {
    "log_content: true": "log_content: The plan 'free' does not include the feature 'content_log'.",
    "channels: [{name: h, kind: slack, address: 'https://h.example.com/1'}]": (
        "kind: The plan 'free' does not include the feature 'webhooks'."
    ),
    "routing: {judge: {usd_per_day: 1}}": ("judge.usd_per_day: The plan 'free' does not include the feature 'judge'."),
    "routing: {replay: {usd_per_week: 1}}": (
        "replay.usd_per_week: The plan 'free' does not include the feature 'replay'."
    ),
    "routing: {auto_ab: true}": "auto_ab: The plan 'free' does not include the feature 'experiments'.",
    "experiments: [{name: x, arms: [a, b]}]": "name: The plan 'free' does not include the feature 'experiments'.",
}


def on_plan(features: str, wanted: str) -> str:
    models = "providers: [{name: lab, kind: vllm, base_url: 'http://127.0.0.1:1'}]\n    models: "
    models += "[{name: a, provider: lab}, {name: b, provider: lab}]"
    return f"plans: [{{name: free, features: {features}}}]\n" + acme(
        f"plan: {{name: free}}\n    {models}\n    {wanted}"
    )


@pytest.mark.parametrize("wanted", WANTED)
def test_what_a_plan_leaves_out_is_refused_at_its_line(apply: Applied, wanted: str) -> None:
    line = on_plan("[]", wanted).splitlines().index(f"    {wanted}") + 1
    for _ in range(2):
        assert apply.refused(on_plan("[]", wanted)) == [f"{line}: {WANTED[wanted]}"]
        apply(on_plan("[]", "enabled: true"))  # from here on the tenant is there, and on its plan


@pytest.mark.parametrize("wanted", WANTED)
def test_a_feature_and_what_needs_it_can_come_together(apply: Applied, wanted: str) -> None:
    apply(on_plan("[]", "enabled: true"))
    apply(on_plan("", wanted))
    assert Plan.objects.get().features is None
    assert "Nothing to change" in apply(on_plan("", wanted))


def test_a_feature_that_there_is_not_is_refused_at_its_line(apply: Applied) -> None:
    [problem] = apply.refused("plans:\n  - {name: p, features: [judge, sso]}")
    assert problem.startswith("2: features: ")
    assert "sso" in problem


def test_another_plan_is_a_change_of_the_same_subscription(apply: Applied) -> None:
    apply(WHOLE)
    told = apply("plans: [{name: free}]\ntenants: [{slug: acme, plan: {name: free, overrides: {}}}]")
    assert "name: team -> free" in told
    assert "quota-requests: (no limit)" in told
    assert not Budget.objects.filter(is_quota=True, enabled=True).exists()
    assert Subscription.objects.get().discount_percent == 5


def test_a_changed_secret_is_set_but_never_shown(apply: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(WHOLE)
    monkeypatch.setenv("HOOK_SECRET", "another-canary-012345")
    told = apply(WHOLE)
    assert "~ alert channel acme/hook\n    secret: (set) -> (changed)" in told
    assert AlertChannel.objects.get(name="hook").reveal_secret() == "another-canary-012345"


def test_a_new_address_forgets_a_secret_that_the_file_does_not_give(apply: Applied) -> None:
    apply(WHOLE)
    moved = '{name: hook, kind: webhook, address: "https://other.example.com/in"}'
    told = apply(f"tenants: [{{slug: acme, channels: [{moved}]}}]")
    assert "secret: (set) -> (none)" in told
    assert AlertChannel.objects.get(name="hook").reveal_secret() == ""
    assert "alert channel acme/hook has no secret: what it sends is not signed." in apply.err
    apply(WHOLE)
    assert AlertChannel.objects.get(name="hook").reveal_secret() == SIGNING_SECRET


def test_a_secret_whose_variable_is_unset_is_kept_and_named(apply: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(WHOLE)
    monkeypatch.delenv("HOOK_SECRET")
    assert "Nothing to change" in apply(WHOLE)
    assert "alert channel acme/hook keeps its secret: the environment variable HOOK_SECRET is not set." in apply.err


def test_a_rules_channels_are_the_list_the_file_gives(apply: Applied) -> None:
    apply(WHOLE)
    told = apply(WHOLE.replace("channels: [hook, chat]", "channels: [chat]"))
    assert "~ alert rule acme/ci-budget\n    channels: [chat, hook] -> [chat]" in told
    assert [channel.name for channel in AlertRule.objects.get(name="ci-budget").channels.all()] == ["chat"]
    event = AuditEvent.objects.filter(action="alert_rule.changed").latest("sequence")
    assert event.changes == {"channels": [["chat", "hook"], ["chat"]]}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ("budgets: [{name: b, limit: {usd: 1}}]", "a budget needs 'scope'."),
        ("budgets: [{name: b, scope: tenant}]", "a budget needs 'limit'."),
        ("budgets: [{name: b, scope: installation, limit: {usd: 1}}]", "scope: 'installation' is not one of tenant,"),
        ("budgets: [{name: b, scope: tenant, limit: {}}]", "limit: give exactly one of usd, tokens, requests."),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1, tokens: 1}}]", "limit: give exactly one of"),
        ("budgets: [{name: b, scope: tenant, limit: {eur: 1}}]", "limit: unknown key 'eur' in a limit"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: -1}}]", "limit: usd: must be a number"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1e3}}]", "limit: usd: must be a number"),
        ("budgets: [{name: b, scope: tenant, limit: {tokens: 1.5}}]", "limit: tokens: must be a whole number"),
        ("budgets: [{name: b, scope: tenant, limit: 5}]", "limit: must be a mapping, not a number."),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, period: year}]", "period: 'year' is not one of hour,"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, period: rolling}]", "period: 'rolling' is not one of"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, rolling: 24}]", "rolling: must be a length of time like"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, rolling: 30s}]", "rolling: Ensure this value is"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, rolling: 1h, period: day}]", "rolling: give a period or"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, alerts: [0]}]", "alerts: Item 1 in the array"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}, hard: perhaps}]", "hard: must be true or false"),
        ("budgets: [{name: b, scope: tenant, of: x, limit: {usd: 1}}]", "of: the scope 'tenant' is a whole;"),
        ("budgets: [{name: b, scope: project, limit: {usd: 1}}]", "scope: say which project, with 'of'."),
        ("budgets: [{name: b, scope: project, of: wbe, limit: {usd: 1}}]", "of: there is no project 'wbe'; did you"),
        ("budgets: [{name: b, scope: token, of: ci, limit: {usd: 1}}]", "of: there is no token 'ci'."),
        ("budgets: [{name: b, scope: model, of: small, limit: {usd: 1}}]", "of: there is no model 'small'."),
        ("budgets: [{name: b, scope: provider, of: lab, limit: {usd: 1}}]", "of: there is no provider 'lab'."),
        ("budgets: [{name: quota-tokens, scope: tenant, limit: {usd: 1}}]", "name: 'quota-tokens' is the name of what"),
        ("budgets: [{name: b, scope: tenant, limit: {usd: 1}}, {name: b, scope: tenant, limit: {usd: 1}}]",
         "the budget 'b' is declared twice"),
        ("limits: [{scope: provider, of: lab, concurrent: 1}]", "scope: 'provider' is not one of tenant,"),
        ("limits: [{scope: tenant, concurrent: 0}]", "concurrent: At least 1;"),
        ("limits: [{scope: tenant, rpm: 5}]", "unknown key 'rpm' in a rate limit"),
        ("plan: team", "plan: must be a mapping, not text."),
        ("plan: {name: team}", "name: there is no plan 'team'."),
        ("plan: {name: team, discount_percent: 5.555}", "plan: discount_percent: must be per cent of at least 0 with at most 2"),
        ("plan: {name: team, overrides: {seats: many}}", "plan: overrides: seats: must be a whole number"),
        ("channels: [{name: c, kind: pager, address: x}]", "kind: 'pager' is not one of email, webhook, slack."),
        ("channels: [{name: c, kind: email, address: nobody}]", "address: Not an e-mail address: 'nobody'."),
        ("channels: [{name: c, kind: webhook, address: 'http://10.0.0.1/'}]", "address: The address is not on the pub"),
        ("alert_rules: [{name: r, kind: budget}]", "budget: Goes with the kind 'budget'"),
        ("alert_rules: [{name: r, kind: budget, budget: b}]", "budget: there is no budget 'b'."),
        ("alert_rules: [{name: r, kind: error_rate}]", "threshold: Say from which value on"),
        ("alert_rules: [{name: r, kind: no_traffic, window: 90s}]", "window: must be whole minutes."),
        ("alert_rules: [{name: r, kind: no_traffic, window: 0m}]", "window: It is at least a minute."),
        ("alert_rules: [{name: r, kind: no_traffic, project: wbe}]", "project: there is no project 'wbe'"),
        ("alert_rules: [{name: r, kind: no_traffic, model: big}]", "model: there is no model 'big'."),
        ("alert_rules: [{name: r, kind: no_traffic, channels: [ops]}]", "channels: there is no channel 'ops'."),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_where_it_stands(apply: Applied, parts: str, problem: str) -> None:
    [found] = apply.refused(acme(parts))
    assert found.startswith(f"4: {problem}"), found
    assert not Tenant.objects.exists()


def test_a_token_of_two_projects_must_be_named_with_one(apply: Applied) -> None:
    text = WHOLE.replace("of: app/bot", "of: bot")
    [problem] = apply.refused(text)
    assert problem.endswith("of: there are several tokens 'bot'; say which: app/bot, web/bot.")


def test_a_subscriptions_problem_is_told_with_its_own_line(apply: Applied) -> None:
    text = "plans: [{name: team}]\ntenants:\n  - slug: acme\n    plan:\n      name: team\n      discount_percent: 101\n"
    assert apply.refused(text) == ["6: discount_percent: Ensure this value is less than or equal to 100."]


def test_what_was_refused_in_the_file_is_no_second_problem_where_it_is_referred_to(apply: Applied) -> None:
    text = acme(
        "tokens: [{name: ci, project: wbe}]\n"
        "    budgets: [{name: b, scope: token, of: ci, limit: {usd: 1}}]\n"
        "    channels: [{name: c, kind: email, address: nobody}]\n"
        "    alert_rules: [{name: r, kind: budget, budget: b, channels: [c]}]"
    )
    assert [problem.split(":")[0] for problem in apply.refused(text)] == ["4", "6"]


def test_another_tenants_parts_are_not_found(apply: Applied) -> None:
    apply(WHOLE)

    def rival(parts: str) -> list[str]:
        return apply.refused(f"tenants: [{{slug: rival, {parts}}}]")

    for parts in (
        "budgets: [{name: b, scope: token, of: ci, limit: {usd: 1}}]",
        "budgets: [{name: b, scope: model, of: small, limit: {usd: 1}}]",
        "alert_rules: [{name: r, kind: budget, budget: ci-month}]",
        "alert_rules: [{name: r, kind: no_traffic, channels: [hook]}]",
    ):
        [problem] = rival(parts)
        assert "there is no" in problem


def test_a_budget_that_a_plan_made_is_not_declared(apply: Applied) -> None:
    apply(WHOLE)
    [problem] = apply.refused(acme("budgets: [{name: quota-tokens, scope: tenant, limit: {tokens: 9}}]"))
    assert problem.startswith("4: name: this budget is made by the tenant's plan")


def test_json_has_no_secret_and_every_new_row(apply: Applied) -> None:
    told = apply(WHOLE, json=True)
    nouns = {change["noun"] for change in json.loads(told)["changes"]}
    assert nouns >= {"budget", "rate limit", "plan", "subscription", "alert channel", "alert rule"}
    assert SIGNING_SECRET not in told


def test_plans_are_data(apply: Applied) -> None:
    apply(WHOLE)
    team = Plan.objects.get(name="team")
    facts: dict[str, Any] = {"seats": 5, "retention_days": 30, "features": ["judge", "webhooks"], "overage": False}
    assert {name: getattr(team, name) for name in facts} == facts
