"""``POST /v1/feedback``: whose answers may be rated, what is kept of it, and what the router learns."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient

from audit.record import Actor
from gateway import ratings, runtime
from gateway.models import RequestLog
from gateway.rows import new_id
from routing.decision_log import stored_vector
from routing.feedback import UnusableRating, rate, value_of
from routing.models import Decision, Feedback, Label, RoutingSettings
from tenants.models import ApiToken, Project, Tenant
from tests.provision import Database

VECTOR = stored_vector(np.arange(3.0))


def decided(token: ApiToken, **changes: Any) -> Decision:
    """A routed request of the token that was answered."""
    values = {
        "request_id": new_id(),
        "tenant": token.tenant,
        "project_id": token.project_id,
        "token_id": token.pk,
        "strategy": "balanced",
        "engine": "hier",
        "task": "coding",
        "complexity": "simple",
        "confidence": 0.9,
        "vector": VECTOR,
        "input_tokens": 10,
        "chosen": "small",
        "propensity": 1.0,
        "reason": "best score",
        "model_name": "small",
        "status": 200,
        "latency_ms": 900.0,
    }
    return Decision.objects.create(**(values | changes))


def logged(token: ApiToken, *, ended_ago: timedelta = timedelta(minutes=1), **changes: Any) -> RequestLog:
    """A request whose model was named by its caller."""
    values = {
        "id": new_id(),
        "tenant": token.tenant,
        "project": token.project,
        "token": token,
        "started_at": datetime.now(UTC) - ended_ago,
        "dialect": "openai-chat",
        "streamed": False,
        "requested_model": "small",
        "model_name": "small",
        "status": 200,
        "latency_ms": 0.0,
        "overhead_ms": 0.0,
    }
    return RequestLog.objects.create(**(values | changes))


# ------------------------------------------------------------------ what a rating is worth


@pytest.mark.parametrize(
    ("score", "thumbs", "value"),
    [(1, None, 0.0), (2, None, 0.25), (3, None, 0.5), (5, None, 1.0), (None, "up", 1.0), (None, "down", 0.0)],
)
def test_scores_and_thumbs_lie_on_one_scale(score: int | None, thumbs: str | None, value: float) -> None:
    assert value_of(score, thumbs) == value


@pytest.mark.parametrize(("score", "thumbs"), [(None, None), (3, "up"), (0, None), (6, None), (None, "sideways")])
def test_a_rating_that_says_nothing_or_too_much_is_refused(score: int | None, thumbs: str | None) -> None:
    with pytest.raises(UnusableRating):
        value_of(score, thumbs)


def test_a_rating_of_a_routed_answer_is_a_label_with_the_requests_features(token: ApiToken) -> None:
    request_id = decided(token, end_user="ann").request_id
    assert rate(token.tenant, request_id, rater="ben", value=0.75).learned
    label = Label.objects.get()
    assert (label.request_id, label.model_name, label.value, label.rater) == (request_id, "small", 0.75, "user")
    assert (label.rater_name, label.end_user, label.task, label.complexity) == ("ben", "ann", "coding", "simple")
    assert (bytes(label.vector), label.shared, label.position) == (VECTOR, False, None)


def test_a_rating_is_shared_where_the_tenant_feeds_the_pool(token: ApiToken) -> None:
    RoutingSettings.objects.create(tenant=token.tenant, feeds_shared=True)
    rate(token.tenant, decided(token).request_id, rater="ben", value=1.0)
    assert Label.objects.get().shared


def test_a_changed_opinion_is_kept_but_a_label_that_was_taken_in_is_not_changed(token: ApiToken) -> None:
    request_id = decided(token).request_id
    rate(token.tenant, request_id, rater="ben", value=1.0)
    assert rate(token.tenant, request_id, rater="ben", value=0.5).learned
    assert Label.objects.get().value == 0.5
    Label.objects.update(position=1)
    assert not rate(token.tenant, request_id, rater="ben", value=0.0, comment="on reflection").learned
    assert (Label.objects.get().value, Feedback.objects.get().value) == (0.5, 0.0)
    assert Feedback.objects.get().comment == "on reflection"


def test_an_answer_that_no_router_chose_teaches_nothing(token: ApiToken) -> None:
    assert not rate(token.tenant, logged(token).pk, rater="ben", value=1.0).learned
    assert Feedback.objects.exists()
    assert not Label.objects.exists()


# ------------------------------------------------------------------ the endpoint


@pytest.fixture
async def served(real_commits: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The gateway's own process, as far as /v1 needs it, on a database of this test's own."""
    monkeypatch.setattr(settings, "DATABASE_URL", real_commits.url)
    yield
    await runtime.shut_down()
    await sync_to_async(connections.close_all)()


@pytest.fixture
async def keys(served: None) -> dict[str, tuple[ApiToken, str]]:
    """API keys by name: ``ci`` and ``bot`` of one project, ``app`` of another, ``them`` of another tenant."""

    def issue() -> dict[str, tuple[ApiToken, str]]:
        actor, found = Actor("tests"), {}
        for slug, project, name in (
            ("acme", "web", "ci"),
            ("acme", "web", "bot"),
            ("acme", "app", "app"),
            ("umbrella", "web", "them"),
        ):
            tenant, _ = Tenant.objects.get_or_create(slug=slug)
            of, _ = Project.objects.get_or_create(tenant=tenant, slug=project)
            found[name] = ApiToken.issue(tenant=tenant, project=of, name=name, actor=actor)
        return found

    return await sync_to_async(issue)()


Keys = dict[str, tuple[ApiToken, str]]


async def post(keys: Keys, body: Any, key: str = "ci", **headers: str) -> HttpResponse:
    content = body if isinstance(body, bytes) else json.dumps(body)
    credential = {"authorization": f"Bearer {keys[key][1]}"}
    answer: HttpResponse = await AsyncClient().post(
        "/v1/feedback", content, content_type="application/json", headers=credential | headers
    )
    return answer


async def elsewhere(write: Callable[..., object], *facts: Any, **changes: Any) -> None:
    """Write a row while a request is under way, which keeps the usual thread busy."""

    def call() -> None:
        try:
            write(*facts, **changes)
        finally:
            connections.close_all()

    await asyncio.to_thread(call)


def refusal(answer: HttpResponse) -> tuple[int, str, str | None]:
    error = json.loads(answer.content)["error"]
    return answer.status_code, error["code"], error["param"]


async def test_an_answer_is_rated_by_its_request_id(keys: Keys) -> None:
    row = await sync_to_async(decided)(keys["ci"][0])
    body = {"request_id": str(row.request_id), "score": 4, "comment": "nearly", "user": "ann"}
    answer = await post(keys, body)
    assert (answer.status_code, json.loads(answer.content)) == (
        200,
        {"object": "feedback", "request_id": str(row.request_id), "learned": True},
    )
    kept = await Feedback.objects.aget()
    assert (kept.request_id, kept.rater, kept.value, kept.comment) == (row.request_id, "ann", 0.75, "nearly")


async def test_who_rates_is_the_key_unless_a_user_is_named(keys: Keys) -> None:
    row = await sync_to_async(decided)(keys["ci"][0])
    for key, user in (("ci", None), ("bot", None), ("ci", "ann")):
        body = {"request_id": str(row.request_id), "thumbs": "up", "user": user}
        assert (await post(keys, body, key)).status_code == 200
    assert {kept.rater async for kept in Feedback.objects.all()} == {"ci", "bot", "ann"}


async def test_an_answer_whose_model_was_named_can_be_rated_too(keys: Keys) -> None:
    row = await sync_to_async(logged)(keys["ci"][0])
    answer = await post(keys, {"request_id": str(row.pk), "thumbs": "down"})
    assert json.loads(answer.content)["learned"] is False
    assert (await Feedback.objects.aget()).value == 0.0


async def test_a_rating_may_be_faster_than_the_row_it_is_about(keys: Keys) -> None:
    request_id = new_id()
    rating = asyncio.create_task(post(keys, {"request_id": str(request_id), "score": 5}))
    await asyncio.sleep(0.3)
    assert not rating.done()
    await elsewhere(logged, keys["ci"][0], id=request_id, ended_ago=timedelta(0), requested_model="auto")
    await asyncio.sleep(0.3)  # its log is there, its decision may still come
    await elsewhere(decided, keys["ci"][0], request_id=request_id)
    assert json.loads((await rating).content)["learned"] is True


@pytest.mark.parametrize("key", ["app", "them"])  # of another project, of another tenant
async def test_anothers_request_is_as_unknown_as_one_that_never_was(keys: Keys, key: str) -> None:
    routed = await sync_to_async(decided)(keys["ci"][0])
    named = await sync_to_async(logged)(keys["ci"][0])
    told = []
    for request_id in (routed.request_id, named.pk, new_id()):
        answer = await post(keys, {"request_id": str(request_id), "score": 1}, key)
        assert refusal(answer) == (404, "not_found", "request_id")
        error = json.loads(answer.content)["error"] | {"request_id": "of this very refusal"}
        told.append(json.dumps(error).replace(str(request_id), "ID"))
    assert len(set(told)) == 1
    assert not await Feedback.objects.aexists()


async def test_an_id_that_cannot_be_of_a_recent_request_is_not_waited_for(keys: Keys) -> None:
    for request_id in (uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.uuid4()):
        assert not ratings.is_recent(request_id)
        answer = await post(keys, {"request_id": str(request_id), "score": 1})
        assert refusal(answer) == (404, "not_found", "request_id")


UNUSABLE: list[tuple[Any, str | None]] = [
    (b"{", None),
    (b"", None),
    (b"[]", None),
    (b'{"request_id": "\xff"}', None),
    (b'{"score": 1, "score": 5}', None),
    (b'{"score": NaN}', None),
    (b'{"comment": "\\ud800"}', None),
    ({"score": 1}, "request_id"),
    ({"request_id": "chatcmpl-1", "score": 1}, "request_id"),
    ({"request_id": 5, "score": 1}, "request_id"),
    ({"score": "4"}, "score"),
    ({"score": 4.5}, "score"),
    ({"score": True}, "score"),
    ({"score": 6}, "score"),
    ({"score": 10**30}, "score"),
    ({"score": 4, "thumbs": "up"}, "thumbs"),
    ({"thumbs": "sideways"}, "thumbs"),
    ({}, "score"),
    ({"score": 4, "comment": "x" * 2001}, "comment"),
    ({"score": 4, "comment": "a\0b"}, "comment"),
    ({"score": 4, "comment": 7}, "comment"),
    ({"score": 4, "user": "x" * 255}, "user"),
    ({"score": 4, "user": "a\0b"}, "user"),
]


async def test_a_rating_that_cannot_be_used_is_refused_with_its_field(keys: Keys) -> None:
    for body, param in UNUSABLE:
        whole = {"request_id": str(new_id())} | body if isinstance(body, dict) and param != "request_id" else body
        assert refusal(await post(keys, whole)) == (400, "invalid_request_error", param), body


async def test_a_rating_that_is_too_large_is_refused(keys: Keys) -> None:
    for size in (70_000, 3_000_000):
        assert refusal(await post(keys, {"comment": "x" * size})) == (413, "request_too_large", None)


async def test_errors_come_in_the_callers_dialect(keys: Keys) -> None:
    answer = await post(keys, b"{", **{"anthropic-version": "2023-06-01"})
    error = json.loads(answer.content)
    assert (answer.status_code, error["type"], error["error"]["type"]) == (400, "error", "invalid_request_error")


async def test_a_rating_asks_for_a_key(served: None) -> None:
    answer = await AsyncClient().post("/v1/feedback", "{}", content_type="application/json")
    assert refusal(answer) == (401, "invalid_api_key", None)


async def test_ratings_are_given_and_not_read_here(keys: Keys) -> None:
    answer = await AsyncClient().get("/v1/feedback", headers={"authorization": f"Bearer {keys['ci'][1]}"})
    assert refusal(answer) == (405, "method_not_allowed", None)
