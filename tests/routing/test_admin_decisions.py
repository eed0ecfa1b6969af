"""The operators' pages of decisions, and their own ratings of answers."""

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import AuditEvent
from gateway.rows import new_id
from routing.models import Decision, Experiment, Feedback, Label
from routing.overview import explained
from tenants.models import ApiToken
from tests.ledger_rows import log_request
from tests.routing.test_admin_router import a_decision, a_label


def url(decision: Decision, page: str = "change") -> str:
    return reverse(f"admin:routing_decision_{page}", args=[decision.pk])


def shown(browser: Client, decision: Decision) -> str:
    answer = browser.get(url(decision))
    assert answer.status_code == 200
    return answer.content.decode()


def rate(browser: Client, decision: Decision, **values: Any) -> str:
    answer = browser.post(url(decision, "rate"), values, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def as_text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


@pytest.fixture
def decision(token: ApiToken) -> Decision:
    return a_decision(
        token,
        chosen="small",
        judged=True,
        judge_probability=0.1,
        challenger="large",
        removed={"tiny": ["context", "needs 9,000 tokens, has 8,192"]},
        points=[0.0, 0.02, 0.0],
    )


def test_a_decision_is_laid_out(browser: Client, decision: Decision) -> None:
    text = as_text(shown(browser, decision))
    for told in (
        "small chosen 0.800 ± 0.100 0.200 0.50 0.003",
        "middle 0.800 ± 0.100 1.000 0.50 0.013 0.020 0.808 0.000",
        "large challenger 0.800",
        "tiny context needs 9,000 tokens, has 8,192",
        "small: expected quality 0.80.",
        "to be judged (probability 0.10) beside large",
    ):
        assert told in text


def test_the_score_is_quality_less_penalty_plus_points(decision: Decision) -> None:
    found = explained(decision.pk)
    assert found is not None
    assert [round(one.score, 4) for one in found.candidates] == [0.7975, 0.8075, 0.75]


def test_an_answer_of_another_than_the_chosen_model_is_told(browser: Client, token: ApiToken) -> None:
    text = as_text(shown(browser, a_decision(token, chosen="small", model_name="large")))
    assert "large answered" in text
    assert "answered by large" in text


def test_labels_and_feedback_are_told_with_the_decision(browser: Client, decision: Decision, token: ApiToken) -> None:
    of_it = {"request_id": decision.pk}
    a_label(token.tenant, "small", 0.75, rater_name="judge-model", position=7, **of_it)
    a_label(token.tenant, "large", 0.5, **of_it)
    a_label(token.tenant, "middle", 0.111, request_id=new_id())
    Feedback.objects.create(tenant=token.tenant, rater="ann", value=0.25, comment="too short", **of_it)
    text = as_text(shown(browser, decision))
    for told in ("judge · judge-model 0.75 as number 7", "large judge 0.50 not yet", "ann 0.25 too short"):
        assert told in text
    assert "0.11" not in text


def test_the_experiment_is_linked(browser: Client, token: ApiToken) -> None:
    experiment = Experiment.objects.create(tenant=token.tenant, name="large or small", arms=["small", "large"])
    html = shown(browser, a_decision(token, engine="experiment", experiment_id=experiment.pk, arm="small"))
    assert reverse("admin:routing_experiment_change", args=[experiment.pk]) in html


def test_a_request_that_was_routed_shows_why(browser: Client, token: ApiToken) -> None:
    asked = log_request(token)
    page = reverse("admin:gateway_requestlog_change", args=[asked.pk])
    assert "How it was routed" not in browser.get(page).content.decode()
    decision = a_decision(token)
    Decision.objects.filter(pk=decision.pk).update(request_id=asked.pk)
    html = browser.get(page).content.decode()
    assert "How it was routed" in html
    assert reverse("admin:routing_decision_rate", args=[asked.pk]) in html
    answer = browser.post(reverse("admin:routing_decision_rate", args=[asked.pk]), {"score": "4", "on": "request"})
    assert answer["location"] == page


def test_the_page_is_a_handful_of_queries_however_much_was_said(browser: Client, decision: Decision) -> None:
    shown(browser, decision)
    with CaptureQueriesContext(connection) as few:
        shown(browser, decision)
    for number in range(20):
        a_label(decision.tenant, f"m{number}", 0.5, request_id=decision.pk)
        Feedback.objects.create(tenant=decision.tenant, request_id=decision.pk, rater=f"u{number}", value=1.0)
    with CaptureQueriesContext(connection) as many:
        shown(browser, decision)
    assert len(many) == len(few) <= 8


# --------------------------------------------------------------------------- ratings


def test_an_operators_rating_is_kept_learned_and_audited(browser: Client, decision: Decision) -> None:
    html = rate(browser, decision, score="4", comment=" good enough ")
    assert "Your rating is kept. The router will learn it." in html
    feedback = Feedback.objects.get()
    assert (feedback.rater, feedback.value, feedback.comment) == ("olga@example.com", 0.75, "good enough")
    label = Label.objects.get()
    assert (label.model_name, label.rater, label.rater_name, label.value) == ("small", "user", "olga@example.com", 0.75)
    event = AuditEvent.objects.get(action="answer.rated")
    assert (event.tenant, event.object_id, event.changes) == (decision.tenant, str(decision.pk), {"score": [None, 4]})


def test_a_rating_that_was_learned_stays_as_it_was(browser: Client, decision: Decision) -> None:
    rate(browser, decision, score="5")
    Label.objects.update(position=1)
    assert "has learned an earlier one already" in rate(browser, decision, score="1")
    assert Label.objects.get().value == 1.0
    assert Feedback.objects.get().value == 0.0


@pytest.mark.parametrize("score", ["", "0", "6", "x", "3.5", "-1", "55"])
def test_what_is_no_rating_is_refused(browser: Client, decision: Decision, score: str) -> None:
    assert "whole number from 1 to 5" in rate(browser, decision, score=score)
    assert not Feedback.objects.exists()
    assert not AuditEvent.objects.filter(action="answer.rated").exists()


def test_a_comment_beyond_measure_is_refused_and_nothing_kept(browser: Client, decision: Decision) -> None:
    assert "at most 2000 characters" in rate(browser, decision, score="3", comment="x" * 2001)
    assert not Feedback.objects.exists()


def test_without_an_audit_row_there_is_no_rating(
    browser: Client, decision: Decision, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no audit row, no act")

    monkeypatch.setattr(AuditEvent, "save", refuse)
    with pytest.raises(RuntimeError, match="no audit row"):
        browser.post(url(decision, "rate"), {"score": "3"})
    assert not Feedback.objects.exists()
    assert not Label.objects.exists()


def test_only_operators_rate_and_only_by_a_form_of_ours(decision: Decision, operator: Any) -> None:
    assert Client().post(url(decision, "rate"), {"score": "3"}).status_code == 302
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert strict.post(url(decision, "rate"), {"score": "3"}).status_code == 403
    assert not Feedback.objects.exists()


def test_a_rating_is_posted_and_about_a_decision(browser: Client, decision: Decision) -> None:
    assert browser.get(url(decision, "rate")).status_code == 405
    assert browser.post(reverse("admin:routing_decision_rate", args=[new_id()]), {"score": "3"}).status_code == 404


def test_what_nobody_answered_cannot_be_rated_on_its_page(browser: Client, token: ApiToken) -> None:
    assert "Your rating" not in shown(browser, a_decision(token, model_name="", status=502))


# --------------------------------------------------------------------------- the list


def test_decisions_are_found_by_request_and_narrowed_by_tenant(
    browser: Client, decision: Decision, token: ApiToken
) -> None:
    a_decision(token)
    listed = reverse("admin:routing_decision_changelist")
    for query in ({"q": str(decision.pk)}, {"q": f"req_{decision.pk}"}):
        assert list(browser.get(listed, query).context["cl"].result_list) == [decision]
    of_tenant = browser.get(listed, {"tenant__id__exact": token.tenant_id, "model_name": "small"})
    assert len(of_tenant.context["cl"].result_list) == 2
