"""Spend, budgets and alerts through the management API, and /v1/usage."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import AsyncClient, Client

from audit.record import Actor
from billing.allowances import Reach, budgets_of, usage_of
from billing.models import Alert, AlertRule, Budget, BudgetPeriod, RateLimit
from billing.rollups import roll_up
from gateway.models import Model, Provider
from tenants.models import ApiToken, Membership, Project, Tenant, User
from tests.ledger_rows import open_attempt, settle
from tests.provision import Database

pytestmark = pytest.mark.django_db
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOW = datetime.now(UTC)
REACH = Reach(frozenset({"small"}), frozenset({"lab"}))


@pytest.fixture
def manager(client: Client, project: Project, actor: Actor) -> Client:
    _, text = ApiToken.issue(tenant=project.tenant, project=project, name="api", actor=actor, scopes=["management"])
    client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {text}"
    return client


@pytest.fixture
def foreign(other_tenant: Tenant, actor: Actor) -> tuple[ApiToken, Model]:
    project = Project.objects.create(tenant=other_tenant, slug="theirs")
    provider = Provider.objects.create(
        tenant=other_tenant, name="their-lab", kind="openai-compatible", base_url="https://llm.example/v1"
    )
    model = Model.objects.create(tenant=other_tenant, name="theirs", provider=provider, vendor_model="v")
    return ApiToken.issue(tenant=other_tenant, project=project, name="theirs", actor=actor)[0], model


@pytest.fixture
def spent(token: ApiToken, model: Model, foreign: tuple[ApiToken, Model]) -> None:
    for days, cost in ((0, "0.000000000001"), (3, "2"), (3, "4")):
        settle(open_attempt(token, model, at=NOW - days * DAY, tags=["=night"]), cost_usd=Decimal(cost))
    settle(open_attempt(*foreign, at=NOW - DAY), cost_usd=Decimal(1000))
    roll_up()


def days(back: int) -> str:
    return (NOW - back * DAY).date().isoformat()


def test_spend_is_told_by_what_is_asked(manager: Client, spent: None, model: Model) -> None:
    answer = manager.get("/api/spend", {"by": "model", "from": days(5), "to": days(0), "interval": "day"})
    assert answer.status_code == 200
    body = answer.json()
    assert [(row["model"]["name"], row["starts_at"][:10], row["spend_usd"]) for row in body["data"]] == [
        ("small", days(3), "6"),
        ("small", days(0), "0.000000000001"),
    ]
    assert (body["total"]["spend_usd"], body["total"]["requests"]) == ("6.000000000001", 3)
    assert (body["previous"]["spend_usd"], body["time_zone"]) == ("0", "UTC")
    assert body["rolled_up_to"] is not None


def test_this_month_until_now_is_the_default(manager: Client, spent: None) -> None:
    body = manager.get("/api/spend").json()
    assert body["since"].startswith(NOW.strftime("%Y-%m-01T00:00"))
    assert len(body["data"]) == 1


def test_latencies_come_when_asked_for(manager: Client, spent: None) -> None:
    body = manager.get("/api/spend", {"latency": "1", "from": days(5)}).json()
    assert body["total"]["p95_ms"] == pytest.approx(400, rel=0.13)
    assert body["data"][0]["p50_ms"] == pytest.approx(400, rel=0.13)


def test_a_table_of_it_has_no_formulas(manager: Client, spent: None) -> None:
    for headers, query in (({}, {"format": "csv"}), ({"HTTP_ACCEPT": "text/csv"}, {})):
        answer = manager.get("/api/spend", {"by": "tag", "from": days(5), **query}, **headers)
        assert answer["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert [(row["tag"], row["spend_usd"]) for row in rows] == [("'=night", "6.000000000001")]


def test_a_table_has_names_and_times(manager: Client, spent: None) -> None:
    asked = {"by": "model,purpose", "interval": "day", "latency": "1", "from": days(5), "format": "csv"}
    rows = list(csv.DictReader(io.StringIO(manager.get("/api/spend", asked).content.decode())))
    assert {(row["model"], row["purpose"]) for row in rows} == {("small", "serve")}
    assert all(row["starts_at"] and row["p99_ms"] for row in rows)


def test_filters_take_names_and_keys(manager: Client, spent: None, model: Model, token: ApiToken) -> None:
    for where in ({"model": "small"}, {"model": str(model.pk)}, {"token": token.name}, {"purpose": "serve"}):
        assert manager.get("/api/spend", {"from": days(5), **where}).json()["total"]["requests"] == 3
    assert manager.get("/api/spend", {"from": days(5), "purpose": "judge"}).json()["total"]["requests"] == 0


@pytest.mark.parametrize("filter", ["model", "token", "project", "provider", "tenant"])
def test_what_is_anothers_is_as_unknown_as_nothing(
    manager: Client, spent: None, foreign: tuple[ApiToken, Model], filter: str
) -> None:
    token, model = foreign
    theirs = {
        "model": [model.name, model.pk],
        "token": [token.name, token.pk],
        "project": ["theirs", token.project_id],
        "provider": ["their-lab", model.provider_id],
        "tenant": [token.tenant.slug],
    }[filter]
    unknown = manager.get("/api/spend", {filter: "nothing-of-this-name"})
    assert unknown.status_code == 404
    for value in theirs:
        answer = manager.get("/api/spend", {filter: str(value)})
        assert (answer.status_code, answer.content) == (404, unknown.content)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"by": "colour"}, "colour is none of"),
        ({"by": "tag,model"}, "Tags and end users"),
        ({"interval": "minute"}, "interval: give one of"),
        ({"from": "yesterday"}, "from: give a day"),
        ({"from": "0001-01-01"}, "at most 400 days"),
        ({"to": "9999-12-31"}, "to: give a day"),
        ({"from": "2026-11-02", "to": "2026-11-01T00:00Z"}, "from has to be before to"),
    ],
)
def test_nonsense_is_refused_with_a_reason(manager: Client, query: dict[str, str], said: str) -> None:
    for form in ("json", "csv"):
        answer = manager.get("/api/spend", {**query, "format": form})
        assert answer.status_code == 400
        assert said in answer.content.decode()


@pytest.mark.parametrize("path", ["spend", "spend/trend", "budgets", "budget", "alerts"])
def test_nobody_and_tokens_for_inference_are_refused(client: Client, token_text: str, path: str) -> None:
    assert client.get(f"/api/{path}").status_code == 401
    assert client.get(f"/api/{path}", HTTP_AUTHORIZATION=f"Bearer {token_text}").status_code == 401


def test_a_person_sees_its_tenants_and_an_operator_all(
    client: Client, spent: None, tenant: Tenant, other_tenant: Tenant, operator: User
) -> None:
    user = User.objects.create_user("viewer@example.com", password=None)
    client.force_login(user)
    assert client.get("/api/spend", {"from": days(5)}).json()["total"]["requests"] == 0
    Membership.objects.create(tenant=tenant, user=user, role="viewer")
    assert client.get("/api/spend", {"from": days(5)}).json()["total"]["requests"] == 3
    client.force_login(operator)
    found = client.get("/api/spend", {"from": days(5), "by": "tenant"}).json()
    assert [(row["tenant"]["name"], row["requests"]) for row in found["data"]] == [("umbrella", 1), ("acme", 3)]
    only = client.get("/api/spend", {"from": days(5), "tenant": "acme"}).json()
    assert only["total"]["requests"] == 3


def test_a_trend_is_of_one_tenant(manager: Client, browser: Client, spent: None) -> None:
    found = manager.get("/api/spend/trend", {"period": "week"}).json()
    assert Decimal(found["projected_usd"]) >= Decimal(found["so_far"]["spend_usd"])
    browser.defaults.pop("HTTP_AUTHORIZATION", None)
    assert browser.get("/api/spend/trend").status_code == 400
    assert browser.get("/api/spend/trend", {"tenant": "acme"}).status_code == 200


@pytest.mark.parametrize(("today", "flags"), [(1, (False, False)), (9, (True, True))])
def test_a_trend_says_whether_the_present_hour_and_day_are_unusual(
    manager: Client, token: ApiToken, model: Model, today: int, flags: tuple[bool, bool]
) -> None:
    now = datetime.now(UTC)
    for day in range(10):
        settle(open_attempt(token, model, at=now - day * DAY), cost_usd=Decimal(today if day == 0 else 1))
    roll_up()
    found = manager.get("/api/spend/trend", {"period": "day"}).json()["anomaly"]
    assert (found["hour"]["is_anomalous"], found["day"]["is_anomalous"]) == flags
    for name in ("hour", "day"):
        assert (found[name]["spent_usd"], found[name]["usual_usd"]) == (str(today), "1")
        assert (found[name]["limit_usd"], found[name]["days"]) == ("1.5", 9)


def test_nothing_is_unusual_before_there_is_a_week_to_compare(manager: Client, spent: None) -> None:
    found = manager.get("/api/spend/trend").json()["anomaly"]["hour"]
    assert (found["is_anomalous"], found["usual_usd"], found["limit_usd"]) == (False, None, None)


def test_a_trend_of_what_is_not_counted_together_is_refused(manager: Client, spent: None) -> None:
    answer = manager.get("/api/spend/trend", {"tag": "night", "model": "small"})
    assert answer.status_code == 400
    assert "Tags and end users" in answer.json()["detail"]


# ------------------------------------------------------------------------------------------ budgets


@pytest.fixture
def budget(tenant: Tenant) -> Callable[..., Budget]:
    def make(name: str, scope: str = "tenant", used: str | None = None, **values: Any) -> Budget:
        facts = {"tenant": tenant, "metric": "usd", "cap": Decimal(100), "period": "month"} | values
        made = Budget.objects.create(name=name, scope=scope, **facts)
        if used is not None:
            start = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            end = (start + 32 * DAY).replace(day=1)
            BudgetPeriod.objects.create(
                tenant=made.tenant, budget=made, starts_at=start, ends_at=end, spent=Decimal(used), held=Decimal("0.5")
            )
        return made

    return make


def test_budgets_are_told_as_they_stand(manager: Client, budget: Callable[..., Budget], other_tenant: Tenant) -> None:
    budget("month", used="40.25")
    budget("untouched", metric="requests", hard=False, period="total")
    budget("theirs", tenant=other_tenant)
    budget("switched-off", enabled=False)
    budget("all", scope="installation", tenant=None)
    first, second = manager.get("/api/budgets").json()["data"]
    assert (first["cap"], first["spent"], first["held"], first["remaining"]) == ("100", "40.25", "0.5", "59.25")
    assert (first["name"], first["scope"], first["metric"], first["hard"]) == ("month", "tenant", "usd", True)
    assert first["starts_at"][:10] == NOW.strftime("%Y-%m-01")
    assert first["resets_at"] == first["ends_at"]
    assert (second["name"], second["spent"], second["resets_at"], second["hard"]) == ("untouched", "0", None, False)
    assert manager.get("/api/budget").json() == manager.get("/api/budgets").json()


def test_a_budget_of_each_ones_own_has_a_line_for_each(tenant: Tenant, budget: Callable[..., Budget]) -> None:
    each = budget("each", scope="user", subject="*", period="total")
    for person, amount in (("bob", 2), ("alice", 1)):
        BudgetPeriod.objects.create(
            tenant=tenant, budget=each, subject=person, starts_at=datetime.fromtimestamp(0, UTC), spent=amount
        )
    assert [(found.subject, found.spent) for found in budgets_of([tenant.pk])] == [("alice", 1), ("bob", 2)]


def test_a_rolling_window_has_the_slices_that_are_not_outside(tenant: Tenant, budget: Callable[..., Budget]) -> None:
    rolling = budget("rolling", period="rolling", rolling_s=3600, cap=Decimal(5))
    now = NOW.replace(second=0, microsecond=0)
    for minutes, amount in ((0, 1), (30, 2), (59, 4), (60, 0), (61, 8)):
        start = now - timedelta(minutes=minutes)
        BudgetPeriod.objects.create(
            tenant=tenant, budget=rolling, starts_at=start, ends_at=start + timedelta(seconds=60), spent=amount
        )
    for moment in (now, now + timedelta(seconds=59)):
        [found] = budgets_of([tenant.pk], moment)
        assert (found.spent, found.remaining) == (7, 0)
        assert found.resets_at == now - timedelta(minutes=59) + timedelta(seconds=60) + HOUR


def test_an_operator_sees_the_installations_budgets(browser: Client, budget: Callable[..., Budget]) -> None:
    budget("all", scope="installation", tenant=None)
    assert [row["name"] for row in browser.get("/api/budgets").json()["data"]] == ["all"]


def test_open_alerts_come_first(manager: Client, tenant: Tenant, other_tenant: Tenant) -> None:
    for occasion, owner, opened, resolved in (
        ("resolved", tenant, NOW, NOW),
        ("open", tenant, NOW - DAY, None),
        ("theirs", other_tenant, NOW, None),
        ("everybodys", None, NOW, None),
    ):
        Alert.objects.create(
            tenant=owner, kind=AlertRule.Kind.BUDGET, occasion=occasion, message=occasion, opened_at=opened,
            resolved_at=resolved,
        )  # fmt: skip
    assert [row["message"] for row in manager.get("/api/alerts").json()["data"]] == ["open", "resolved"]


# ---------------------------------------------------------------------------------------- /v1/usage


def test_a_key_is_told_of_itself(
    spent: None, token: ApiToken, project: Project, budget: Callable[..., Budget], actor: Actor
) -> None:
    other, _ = ApiToken.issue(tenant=project.tenant, project=project, name="other", actor=actor)
    budget("mine", scope="token", token=token, used="1")
    budget("ours", scope="project", project=project)
    budget("everybodys")
    budget("not-mine", scope="token", token=other)
    RateLimit.objects.create(tenant=project.tenant, scope="token", token=token, requests_per_minute=7)
    RateLimit.objects.create(tenant=project.tenant, scope="token", token=other, requests_per_minute=8)
    RateLimit.objects.create(tenant=project.tenant, scope="tenant", concurrent=9)
    found = usage_of(str(token.pk), REACH, NOW)
    assert (found["key"], found["today"]["requests"], found["today"]["spend_usd"]) == ("ci", 1, "0.000000000001")
    assert found["today"]["tokens"] == 120
    assert [(row["name"], row["left"]) for row in found["budgets"]] == [
        ("everybodys", "100"),
        ("mine", "98.5"),
        ("ours", "100"),
    ]
    assert [(row["scope"], row["requests_per_minute"], row["concurrent"]) for row in found["rate_limits"][:2]] == [
        ("tenant", None, 9),
        ("token", 7, None),
    ]
    assert usage_of(str(other.pk), REACH, NOW)["this_month"]["requests"] == 0


def test_a_key_is_told_of_every_budget_that_can_refuse_it(
    token: ApiToken, budget: Callable[..., Budget], other_tenant: Tenant
) -> None:
    budget("one-model", scope="model", subject="small", used="25")
    budget("other-model", scope="model", subject="out-of-reach")
    budget("lab", scope="provider", subject="lab")
    budget("nightly", scope="key", subject="nightly", used="50")
    budget("users", scope="user", subject="*")
    budget("keys", scope="key", subject="*")
    budget("alice", scope="user", subject="alice", used="50")
    budget("all", scope="installation", tenant=None, used="12.3456")
    budget("theirs", tenant=other_tenant)
    for scope, used in (("model", ("small", "out-of-reach")), ("user", ("alice", "bob"))):
        each = Budget.objects.filter(name="users").first() if scope == "user" else budget("m", "model", subject="*")
        for subject in used:
            BudgetPeriod.objects.create(
                tenant=token.tenant, budget=each, subject=subject, starts_at=NOW - HOUR, ends_at=NOW + HOUR, spent=7
            )
    found = {row["name"]: row for row in usage_of(str(token.pk), REACH, NOW)["budgets"]}
    told = {
        name: (row["scope"], row["subject"], row["cap"], row["spent"], row["left"], row["used_percent"])
        for name, row in found.items()
    }
    assert told == {
        "one-model": ("model", "small", "100", "25", "74.5", "25.00"),
        "lab": ("provider", "lab", "100", "0", "100", "0.00"),
        "m": ("model", "small", "100", "7", "93", "7.00"),
        "nightly": ("key", "nightly", "100", "50", "49.5", "50.00"),
        "users": ("user", "*", "100", None, None, None),
        "keys": ("key", "*", "100", None, None, None),
        "all": ("installation", None, None, None, None, "12.34"),
    }
    assert found["all"]["resets_at"] == found["one-model"]["resets_at"]


def test_a_budget_of_each_model_that_none_of_them_used_is_told_once(
    token: ApiToken, budget: Callable[..., Budget]
) -> None:
    each = budget("each", scope="model", subject="*")
    BudgetPeriod.objects.create(
        tenant=token.tenant, budget=each, subject="out-of-reach", starts_at=NOW - HOUR, ends_at=NOW + HOUR, spent=7
    )
    [row] = usage_of(str(token.pk), REACH, NOW)["budgets"]
    assert (row["subject"], row["spent"], row["left"]) == ("*", "0", "100")


async def test_usage_asks_for_a_key(real_commits: Database) -> None:
    answer = await AsyncClient().get("/v1/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
