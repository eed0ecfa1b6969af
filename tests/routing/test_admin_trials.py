"""The operators' pages of experiments and ramps."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import AuditEvent
from gateway.models import Model, Provider
from routing.models import Experiment, ExperimentEvidence, Ramp
from tenants.models import Tenant
from tests.gateway.test_admin import form_values


def url(model: str, page: str, *args: Any) -> str:
    return reverse(f"admin:routing_{model}_{page}", args=args)


def add(browser: Client, model: str, **values: Any) -> Any:
    return browser.post(url(model, "add"), values)


def errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return dict(answer.context["adminform"].form.errors)


def save(browser: Client, model: str, row: Any, **changes: Any) -> Any:
    page = url(model, "change", row.pk)
    return browser.post(page, form_values(browser.get(page)) | changes)


def shown(browser: Client, model: str, row: Any) -> str:
    answer = browser.get(url(model, "change", row.pk))
    assert answer.status_code == 200
    return answer.content.decode()


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action))


@pytest.fixture
def models(provider: Provider) -> list[Model]:
    make = Model.objects.create
    return [make(tenant=provider.tenant, name=n, provider=provider, vendor_model=n) for n in ("small", "large")]


@pytest.fixture
def wanted(tenant: Tenant, models: list[Model]) -> dict[str, Any]:
    """An experiment, as the form has it."""
    return {
        "tenant": tenant.pk, "name": "large or small", "task": "coding", "arms": "small\nlarge", "mode": "shadow",
        "sticky": "session", "judge_rate": "1", "most_labels": "400", "most_days": "14", "promotes": "on",
    }  # fmt: skip


@pytest.fixture
def experiment(browser: Client, wanted: dict[str, Any]) -> Experiment:
    assert add(browser, "experiment", **wanted).status_code == 302
    return Experiment.objects.get()


@pytest.fixture
def ramp(browser: Client, tenant: Tenant, models: list[Model]) -> Ramp:
    values = {"tenant": tenant.pk, "task": "qa", "to_model": "small", "from_model": "large", "percent": "25"}
    assert add(browser, "ramp", **values).status_code == 302
    return Ramp.objects.get()


# --------------------------------------------------------------------------- experiments


def test_an_experiment_is_begun_by_hand(experiment: Experiment) -> None:
    assert (experiment.arms, experiment.shares, experiment.guards) == (["small", "large"], [], [])
    assert (experiment.status, experiment.automatic) == ("running", False)
    (begun,) = events("experiment.created")
    assert (begun.actor_label, begun.tenant) == ("olga@example.com", experiment.tenant)


def test_shares_and_guards_are_read(browser: Client, wanted: dict[str, Any]) -> None:
    guards = '[{"metric": "errors", "worst_absolute": 0.02}]'
    assert add(browser, "experiment", **wanted, shares="0.8, 0.2", guards=guards).status_code == 302
    made = Experiment.objects.get()
    assert (made.shares, made.guards) == ([0.8, 0.2], [{"metric": "errors", "worst_absolute": 0.02}])


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("arms", "small\nlarg", "acme has no model larg."),
        ("arms", "small", "at least two models"),
        ("arms", "", "This field is required."),
        ("shares", "1", "Give each arm a share"),
        ("judge_rate", "5", "a share, from 0 to 1"),
        ("judge_rate", "-1", "a share, from 0 to 1"),
        ("most_days", "0", "at least 1"),
        ("most_labels", "0", "at least 1"),
        (
            "guards",
            '[{"metric": "charm", "worst_absolute": 1}]',
            "Guard 1: there is no metric 'charm'; there are cost,",
        ),
        ("guards", '[{"metric": "errors", "worst": 1}]', "Guard 1: there is no 'worst'; it takes metric,"),
        ("guards", '[{"metric": "errors", "worst_absolute": "1"}]', "Guard 1: its limits must be numbers."),
        ("guards", '["errors"]', "Guard 1: it must say of which metric it is"),
        ("guards", '{"metric": "errors"}', "This must be a list."),
        ("guards", "[", "Enter a valid JSON"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(
    browser: Client, wanted: dict[str, Any], field: str, value: str, why: str
) -> None:
    found = errors(add(browser, "experiment", **wanted | {field: value}))
    assert why in " ".join(found[field])
    assert not Experiment.objects.exists()


def test_a_cell_has_one_running_experiment(browser: Client, experiment: Experiment, wanted: dict[str, Any]) -> None:
    found = errors(add(browser, "experiment", **wanted | {"name": "another"}))
    assert "An experiment is running on this cell" in str(found)
    Experiment.objects.update(status="ended")
    assert add(browser, "experiment", **wanted | {"name": "another"}).status_code == 302


def test_what_a_running_experiment_compares_stays(browser: Client, experiment: Experiment) -> None:
    answer = save(browser, "experiment", experiment, arms="large\nsmall", task="math", most_days="7", guards="")
    assert answer.status_code == 302
    experiment.refresh_from_db()
    assert (experiment.arms, experiment.task, experiment.most_days) == (["small", "large"], "coding", 7)
    (changed,) = events("experiment.changed")
    assert changed.changes == {"most_days": [14, 7]}


def test_saving_unchanged_leaves_no_trace(browser: Client, experiment: Experiment, ramp: Ramp) -> None:
    before = AuditEvent.objects.count()
    for model, row in (("experiment", experiment), ("ramp", ramp)):
        assert save(browser, model, row).status_code == 302
    assert AuditEvent.objects.count() == before


def test_a_stopped_experiment_is_over(browser: Client, experiment: Experiment) -> None:
    answer = browser.post(url("experiment", "do", experiment.pk, "stop"), follow=True)
    assert "1 stopped" in answer.content.decode()
    experiment.refresh_from_db()
    assert (experiment.status, experiment.winner, experiment.reason) == ("ended", "", "stopped by hand")
    (ended,) = events("experiment.ended")
    assert ended.actor_label == "olga@example.com"
    assert "Stop…" not in answer.content.decode()
    assert browser.post(url("experiment", "change", experiment.pk), {"most_days": "3"}).status_code == 403
    assert "0 stopped" in browser.post(url("experiment", "do", experiment.pk, "stop"), follow=True).content.decode()


def test_the_page_says_where_an_experiment_stands(browser: Client, experiment: Experiment) -> None:
    from routing.experiments.evidence import Evidence
    from routing.trials.evidence import _compared

    evidence = Evidence.begin(experiment.design())
    for number in range(60):
        evidence.add_answer(0, str(number), cost_usd=0.001, latency_ms=100.0)
        evidence.add_pair(1, str(number), 0.25, 1.0)
    state = evidence.to_json() | {"compared": _compared(evidence.experiment)}
    ExperimentEvidence.objects.create(tenant=experiment.tenant, experiment=experiment, state=state)
    html = shown(browser, "experiment", experiment)
    assert "60 judged pairs of at most 400" in html
    assert "large is better: large differs from small by +0.750" in html
    assert '<td class="number">&lt; 0.001</td>' in html
    assert "<td>better</td>" in html


def test_an_experiment_without_evidence_stands_open(browser: Client, experiment: Experiment) -> None:
    html = shown(browser, "experiment", experiment)
    assert "0 judged pairs of at most 400" in html
    assert "no judged answers of large to hold against those of small yet" in html
    assert "count a quarter of an hour after" in html
    assert "<td>open</td>" in html


def test_nothing_of_a_trial_is_deleted(browser: Client, experiment: Experiment, ramp: Ramp) -> None:
    for model, row in (("experiment", experiment), ("ramp", ramp)):
        assert browser.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403


# --------------------------------------------------------------------------- ramps


def test_a_ramp_is_made_by_hand(ramp: Ramp) -> None:
    assert (ramp.source, ramp.status, ramp.percent) == ("hand", "active", 25)
    assert len(events("ramp.created")) == 1


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"to_model": "none"}, "acme has no model none."),
        ({"to_model": "large"}, "another model than it comes from"),
        ({"percent": "101"}, "less than or equal to 100"),
    ],
)
def test_a_ramp_to_nowhere_is_refused(
    browser: Client, tenant: Tenant, models: list[Model], changed: dict[str, str], why: str
) -> None:
    values = {"tenant": tenant.pk, "to_model": "small", "from_model": "large", "percent": "5"} | changed
    assert why in str(errors(add(browser, "ramp", **values)))


def test_a_trial_with_a_model_that_is_never_chosen_is_kept_and_told(
    browser: Client, wanted: dict[str, Any], models: list[Model]
) -> None:
    models[1].routed = False
    models[1].save()
    assert add(browser, "experiment", **wanted).status_code == 302
    assert add(browser, "ramp", tenant=wanted["tenant"], to_model="large", percent="5").status_code == 302
    html = browser.get(url("ramp", "changelist")).content.decode()
    assert "The model large is not routed, so the experiment never concerns a request." in html
    assert "The model large is not routed, so nothing is moved to it." in html


def test_a_cell_is_moved_once(browser: Client, ramp: Ramp) -> None:
    values = {"tenant": ramp.tenant_id, "task": "qa", "to_model": "large", "percent": "5"}
    assert "This cell is being moved" in str(errors(add(browser, "ramp", **values)))


def test_the_share_of_a_hand_made_ramp_can_be_changed(browser: Client, ramp: Ramp) -> None:
    assert save(browser, "ramp", ramp, percent="50", to_model="large").status_code == 302
    ramp.refresh_from_db()
    assert (ramp.percent, ramp.to_model) == (50, "small")
    (changed,) = events("ramp.changed")
    assert changed.changes == {"percent": [25, 50]}


def test_an_ended_ramp_gives_the_cell_back(browser: Client, ramp: Ramp) -> None:
    answer = browser.post(url("ramp", "do", ramp.pk, "end"), follow=True)
    assert "1 ended" in answer.content.decode()
    ramp.refresh_from_db()
    assert (ramp.status, ramp.reason) == ("ended", "ended by hand")
    (ended,) = events("ramp.ended")
    assert ended.actor_label == "olga@example.com"
    values = {"tenant": ramp.tenant_id, "task": "qa", "to_model": "large", "percent": "5"}
    assert add(browser, "ramp", **values).status_code == 302


def test_a_job_s_ramp_can_only_be_ended(browser: Client, ramp: Ramp) -> None:
    Ramp.objects.update(
        source="migration", saved_usd=Decimal("1.5"), evidence={"steps": [{"percent": 5, "action": "advance"}]}
    )
    html = shown(browser, "ramp", ramp)
    for told in ("cheaper and as good", "action: advance, percent: 5", "$1.50", "End…"):
        assert told in html
    assert browser.post(url("ramp", "change", ramp.pk), {"percent": "100"}).status_code == 403
