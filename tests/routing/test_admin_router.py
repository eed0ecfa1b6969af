"""The page of a tenant's router, and the figures on it."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.models import UsageHour
from gateway.rows import new_id
from routing.decision import Label as Lesson
from routing.decision_log import stored_vector
from routing.ema import EmaSettings, MovingAverages
from routing.engine import Engine
from routing.features import FeatureSpace
from routing.learning import BY_RATINGS
from routing.models import Decision, DriftWatch, Label, RouterState, RoutingSettings, WeightSnapshot
from routing.overview import overview_of
from routing.overview.beliefs import HEAT_STEPS
from routing.overview.recovered import recovered
from routing.stored import averages_to_bytes
from tenants.models import ApiToken, Tenant
from tests.ledger_rows import id_at
from tests.routing.candidates_kept import kept

SPACE = FeatureSpace()
COSTS = {"large": 4.0, "middle": 1.0, "small": 0.2}
PENALTIES = {"large": 0.05, "middle": 0.0125, "small": 0.0025}


def vector(task: str = "coding", complexity: str = "simple") -> Any:
    return SPACE.features(f"a question of {task}", task, complexity).vector


def a_decision(
    token: ApiToken, at: datetime | None = None, *, models: tuple[str, ...] = (*COSTS,), **values: Any
) -> Decision:
    """One routed request: the candidates by their usual costs, answered by whom it chose."""
    task, complexity = values.get("task", "coding"), values.get("complexity", "simple")
    chosen, penalties = values.pop("chosen", "small"), values.pop("penalties", PENALTIES)
    columns = {
        "model": [*models], "mean": [0.8] * len(models), "sd": [0.1] * len(models),
        "cost": [COSTS[model] for model in models], "penalty": [penalties[model] for model in models],
        "propensity": [float(model == chosen) for model in models], "points": values.pop("points", None),
        "latency": [0.5] * len(models),
    }  # fmt: skip
    facts = {
        "task": task, "complexity": complexity, "confidence": 0.9, "vector": stored_vector(vector(task, complexity)),
        "strategy": "balanced", "engine": "hier", "input_tokens": 50, "chosen": chosen, "model_name": chosen,
        "propensity": 1.0, "reason": f"{chosen}: expected quality 0.80", "status": 200,
        "output_tokens": 20, "cost_usd": Decimal("0.0002"), "latency_ms": 400.0, "end_user": "ann",
    } | kept(columns) | values  # fmt: skip
    return Decision.objects.create(
        request_id=id_at(at or datetime.now(UTC)), tenant=token.tenant, project_id=token.project_id,
        token_id=token.pk, **facts,
    )  # fmt: skip


def a_label(tenant: Tenant, model: str, value: float, **values: Any) -> Label:
    facts = {"task": "coding", "complexity": "simple", "rater": "judge", "request_id": new_id()} | values
    return Label.objects.create(tenant=tenant, model_name=model, value=value, vector=stored_vector(vector()), **facts)


def taught(labels: int = 40, **qualities: float) -> Engine:
    """An engine that knows what the models are worth."""
    engine = Engine.begin([*qualities], space=SPACE)
    for _ in range(labels):
        for model, quality in qualities.items():
            engine.learn(Lesson(model, vector(), quality, 0.0))
    return engine


def keep(tenant: Tenant, engine: Engine, **values: Any) -> RouterState:
    facts = {"engine": "hier", "state": engine.to_bytes(), "labels": engine.version, "version": 1} | values
    return RouterState.objects.create(tenant=tenant, **facts)


def page_of(browser: Client, tenant: Tenant) -> str:
    answer = browser.get(reverse("admin:routing_router", args=[tenant.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.fixture
def engine() -> Engine:
    return taught(large=0.9, middle=0.7, small=0.4)


# --------------------------------------------------------------------------- how far it has come


def share_of(engine: Engine, decisions: list[Decision]) -> float | None:
    found = recovered(engine, decisions)
    assert found is not None
    assert (found.cheapest, found.best) == ("small", "large")
    return found.share


def test_always_the_best_single_model_is_the_whole_way(token: ApiToken, engine: Engine) -> None:
    assert share_of(engine, [a_decision(token, chosen="large") for _ in range(30)]) == pytest.approx(1.0)


def test_always_the_cheapest_is_none_of_it(token: ApiToken, engine: Engine) -> None:
    assert share_of(engine, [a_decision(token, chosen="small") for _ in range(30)]) == pytest.approx(0.0)


def test_between_them_it_is_a_part(token: ApiToken, engine: Engine) -> None:
    decisions = [a_decision(token, chosen="large" if number % 2 else "small") for number in range(40)]
    assert share_of(engine, decisions) == pytest.approx(0.5)


def test_what_cost_and_latency_weighed_counts_as_logged(token: ApiToken, engine: Engine) -> None:
    """At this taste the best model is not worth its price."""
    dear = [a_decision(token, chosen="middle", penalties=PENALTIES | {"large": 0.6}) for _ in range(30)]
    found = recovered(engine, dear)
    assert found is not None
    assert (found.best, found.share) == ("middle", pytest.approx(1.0))


def test_where_a_model_does_not_qualify_the_choice_stands_in_for_it(token: ApiToken, engine: Engine) -> None:
    free = [a_decision(token, chosen="large") for _ in range(20)]
    narrow = [a_decision(token, chosen="middle", models=("middle", "small")) for _ in range(10)]
    found = recovered(engine, free + narrow)
    assert found is not None
    assert found.best == "large"
    assert found.share == pytest.approx(1.0)


def test_only_what_the_engine_chose_among_several_is_counted(token: ApiToken, engine: Engine) -> None:
    counted = [a_decision(token, chosen="large") for _ in range(20)]
    others = [
        *(a_decision(token, engine="experiment") for _ in range(20)),
        *(a_decision(token, models=("small",)) for _ in range(20)),
        *(a_decision(token, qualified=[], weighed=b"") for _ in range(20)),
        *(a_decision(token, vector=b"") for _ in range(20)),
    ]
    found = recovered(engine, counted + others)
    assert found is not None
    assert (found.decisions, found.share) == (20, pytest.approx(1.0))


def test_too_few_decisions_tell_nothing(token: ApiToken, engine: Engine) -> None:
    assert recovered(engine, [a_decision(token) for _ in range(19)]) is None


def test_there_is_no_way_to_go_where_the_cheapest_is_the_best(token: ApiToken) -> None:
    decisions = [a_decision(token) for _ in range(30)]
    found = recovered(taught(large=0.5, middle=0.5, small=0.9), decisions)
    assert found is not None
    assert (found.best, found.share) == ("small", None)


# --------------------------------------------------------------------------- the page


def test_the_page_tells_how_far_the_router_has_come(browser: Client, token: ApiToken, engine: Engine) -> None:
    keep(token.tenant, engine)
    for number in range(40):
        a_decision(token, chosen="small" if number < 4 else "large")
    html = page_of(browser, token.tenant)
    assert "90.0%" in html
    assert "of the way from small to large, with 120 labels" in html


def test_the_page_lists_models_by_what_is_believed_of_them(token: ApiToken, engine: Engine) -> None:
    now = datetime.now(UTC)
    keep(token.tenant, engine)
    for model, cost, latency in (("large", "0.004", 900.0), ("small", "0.0002", 100.0), ("small", "0.0004", 300.0)):
        a_decision(token, chosen=model, cost_usd=Decimal(cost), latency_ms=latency)
    a_decision(token, now - timedelta(days=8), chosen="middle")
    a_decision(token, chosen="middle", status=502)
    lines = {line.name: line for line in overview_of(token.tenant, now).models}
    assert [*lines] == ["large", "middle", "small"]
    small = lines["small"]
    assert small.belief is not None
    assert small.answers is not None
    assert small.belief.mean == pytest.approx(0.4, abs=0.05)
    assert (small.labels, small.answers.count, small.share) == (40, 2, pytest.approx(2 / 3))
    assert (small.answers.usd_per_1000, small.answers.median_ms) == (Decimal("0.3"), 200.0)
    assert (lines["middle"].answers, lines["middle"].share) == (None, 0.0)


def test_labels_that_were_left_out_or_wait_are_not_counted(token: ApiToken) -> None:
    a_label(token.tenant, "small", 0.4, position=1)
    a_label(token.tenant, "small", 0.4, position=2, left_out="too many of one end user")
    a_label(token.tenant, "small", 0.4)
    a_decision(token, models=("small",))
    (small,) = overview_of(token.tenant).models
    assert small.labels == 1


def test_an_unknown_price_is_not_free(token: ApiToken, engine: Engine) -> None:
    keep(token.tenant, engine)
    a_decision(token, cost_usd=None)
    (small,) = [line for line in overview_of(token.tenant).models if line.name == "small"]
    assert small.answers is not None
    assert small.answers.usd_per_1000 is None


def test_what_was_noticed_of_a_model_is_said(browser: Client, token: ApiToken) -> None:
    engine = taught(large=0.9, middle=0.7, small=0.4)
    engine.reopen("large")
    keep(token.tenant, engine)
    DriftWatch.objects.create(
        tenant=token.tenant, model_name="small", alarmed_at=datetime(2026, 3, 2, tzinfo=UTC), reason="worse by 0.2"
    )
    html = page_of(browser, token.tenant)
    assert "answered worse than expected: learned anew since label 120" in html
    assert "was noticed by replay on 2026-03-02: worse by 0.2" in html


def test_what_ratings_alone_have_noticed_is_not_called_replay(browser: Client, token: ApiToken, engine: Engine) -> None:
    keep(token.tenant, engine)
    noticed = f"small answers worse than expected{BY_RATINGS}"
    at = datetime(2026, 3, 2, tzinfo=UTC)
    DriftWatch.objects.create(tenant=token.tenant, model_name="small", alarmed_at=at, reason=noticed)
    html = page_of(browser, token.tenant)
    assert "was noticed by its latest ratings on 2026-03-02: answers worse than expected." in html
    assert "by replay" not in html


def test_the_map_shows_the_cells_that_are_asked_for(token: ApiToken, engine: Engine) -> None:
    keep(token.tenant, engine)
    a_decision(token, task="coding", complexity="simple")
    a_label(token.tenant, "large", 0.9, task="math", complexity="complex", position=1)
    heat = overview_of(token.tenant).heat
    assert heat is not None
    assert [(row.task, row.complexity) for row in heat.rows] == [("coding", "simple"), ("math", "complex")]
    assert heat.models == ["large", "middle", "small"]
    coding = heat.rows[0].cells
    assert [cell.best for cell in coding] == [True, False, False]
    assert (coding[0].step, coding[2].step) == (HEAT_STEPS - 1, 0)
    assert [cell.labels for cell in heat.rows[1].cells] == [1, 0, 0]


def test_a_router_that_averages_shows_its_cells(browser: Client, token: ApiToken) -> None:
    RoutingSettings.objects.create(tenant=token.tenant, engine="ema")
    averages = MovingAverages(EmaSettings())
    for value in (0.4, 0.6):
        averages.learn(SPACE.features("x", "coding", "simple"), "small", value)
    RouterState.objects.create(tenant=token.tenant, engine="ema", state=averages_to_bytes(averages), labels=2)
    a_decision(token, engine="ema")
    found = overview_of(token.tenant)
    assert found.heat is not None
    assert found.heat.rows[0].cells[found.heat.models.index("small")].mean == pytest.approx(0.5)
    assert "The engine ema keeps no beliefs" in page_of(browser, token.tenant)


def test_without_a_state_the_page_shows_what_was_weighed(browser: Client, token: ApiToken) -> None:
    a_decision(token)
    lines = overview_of(token.tenant).models
    assert {line.name: line.belief.mean for line in lines if line.belief} == dict.fromkeys(COSTS, 0.8)
    assert "nothing learned yet" in page_of(browser, token.tenant)


def test_a_tenant_that_routes_nothing_has_a_page_too(browser: Client, tenant: Tenant) -> None:
    html = page_of(browser, tenant)
    assert "Nothing was routed yet" in html
    assert "settings (defaults so far)" in html


def test_a_state_that_cannot_be_read_is_said_and_breaks_nothing(browser: Client, token: ApiToken) -> None:
    RouterState.objects.create(tenant=token.tenant, engine="hier", state=b"rubbish")
    assert "this is no state of a router" in page_of(browser, token.tenant)


def test_the_money_of_judging_is_todays(browser: Client, token: ApiToken) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    RoutingSettings.objects.create(tenant=token.tenant, judge_usd_per_day=Decimal("2.5"))
    for hour, purpose, spent in ((now, "judge", "0.5"), (now, "shadow", "0.25"), (now, "serve", "9")):
        UsageHour.objects.create(
            hour=hour, tenant_id=token.tenant_id, token_id=token.pk, vendor_model="x", purpose=purpose,
            attempts=1, requests=1, cost_usd=Decimal(spent),
        )  # fmt: skip
    found = overview_of(token.tenant)
    assert found.settings.judge_usd_per_day == Decimal("2.5")
    assert "of $2.50 spent today" in page_of(browser, token.tenant)


def test_snapshots_become_lines(browser: Client, tenant: Tenant) -> None:
    for day, mean in ((1, 0.5), (2, 0.6), (4, 0.8)):
        WeightSnapshot.objects.create(
            tenant=tenant, day=date(2026, 3, day), engine="hier", labels=day * 10, requests=100,
            cost_usd=Decimal(day) / 100, by_model={"small": {"mean": mean, "sd": 0.1, "labels": day * 10}},
        )  # fmt: skip
    found = overview_of(tenant)
    (small,) = found.beliefs
    assert (small.first, small.last, small.since, small.until) == (0.5, 0.8, date(2026, 3, 1), date(2026, 3, 4))
    assert small.points == "4.0,36.0 81.3,25.3 236.0,4.0"
    assert found.spend is not None
    assert (found.spend.first, found.spend.last) == (0.1, 0.4)
    assert f'points="{small.points}"' in page_of(browser, tenant)


def test_the_page_takes_as_many_queries_with_much_as_with_little(
    browser: Client, token: ApiToken, engine: Engine
) -> None:
    RoutingSettings.objects.create(tenant=token.tenant)
    keep(token.tenant, engine)
    a_decision(token)
    page_of(browser, token.tenant)
    with CaptureQueriesContext(connection) as few:
        page_of(browser, token.tenant)
    for number in range(60):
        a_decision(token, chosen=[*COSTS][number % 3], judged=True)
        a_label(token.tenant, [*COSTS][number % 3], 0.5, position=number)
        WeightSnapshot.objects.create(
            tenant=token.tenant, day=date(2026, 1, 1) + timedelta(days=number), engine="hier", labels=1,
            by_model={"small": {"mean": 0.5}},
        )  # fmt: skip
        DriftWatch.objects.create(tenant=token.tenant, model_name=f"m{number}", alarmed_at=datetime.now(UTC))
    with CaptureQueriesContext(connection) as many:
        page_of(browser, token.tenant)
    assert len(many) == len(few) <= 16


def test_another_tenants_decisions_and_labels_are_not_in_it(
    token: ApiToken, other_tenant: Tenant, engine: Engine
) -> None:
    keep(token.tenant, engine)
    a_decision(token)
    a_label(token.tenant, "small", 0.4, position=1)
    found = overview_of(other_tenant)
    assert (found.models, found.decisions, found.labels, found.heat) == ([], [], 0, None)


def test_names_are_escaped_and_nothing_is_inline(browser: Client, token: ApiToken) -> None:
    evil = "<script>alert(1)</script>\"'"
    a_decision(token, chosen="small", model_name=evil, reason=evil, task="<b>")
    html = page_of(browser, token.tenant)
    assert evil not in html
    assert "<b>" not in html
    assert " style=" not in html


def test_strangers_and_unknown_tenants_see_no_router(client: Client, browser: Client, tenant: Tenant) -> None:
    assert Client().get(reverse("admin:routing_router", args=[tenant.pk])).status_code == 302
    assert browser.get(reverse("admin:routing_router", args=[new_id()])).status_code == 404
