"""Circuit breakers through the management API and the operators' page."""

import time
from collections.abc import Iterator
from datetime import datetime

import msgspec
import pytest
import redis
from django.conf import settings
from django.test import Client

from audit.models import AuditEvent
from audit.record import Actor
from gateway.models import Deployment, Model, Provider
from gateway.providers.health import SHARED_KEY, SharedCircuit
from tenants.models import ApiToken, Membership, Project, Tenant, User

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_shared() -> Iterator[None]:
    with redis.Redis.from_url(settings.REDIS_URL) as connection:
        connection.delete(SHARED_KEY)
        yield
        connection.delete(SHARED_KEY)


def bearer(project: Project, actor: Actor, *scopes: str) -> dict[str, str]:
    _, text = ApiToken.issue(tenant=project.tenant, project=project, name="api", actor=actor, scopes=scopes)
    return {"HTTP_AUTHORIZATION": f"Bearer {text}"}


@pytest.fixture
def manager(client: Client, project: Project, actor: Actor) -> Client:
    client.defaults |= bearer(project, actor, "management")
    return client


@pytest.fixture
def foreign_model(other_tenant: Tenant) -> Model:
    provider = Provider.objects.create(
        tenant=other_tenant, name="theirs", kind="openai-compatible", base_url="https://llm.example.com/v1"
    )
    return Model.objects.create(tenant=other_tenant, name="theirs", provider=provider, vendor_model="v")


def test_a_tenant_sees_its_own_models_and_no_others(manager: Client, model: Model, foreign_model: Model) -> None:
    answer = manager.get("/api/circuit-breakers")
    assert answer.status_code == 200
    assert [(row["model"], row["state"]) for row in answer.json()["data"]] == [(model.name, "closed")]


def test_a_trip_is_seen_audited_and_reset(manager: Client, model: Model) -> None:
    tripped = manager.post(f"/api/circuit-breakers/{model.pk}/trip")
    assert (tripped.status_code, tripped.json()["state"], tripped.json()["by_hand"]) == (200, "open", True)
    reset = manager.post(f"/api/circuit-breakers/{model.pk}/reset")
    assert (reset.status_code, reset.json()["state"]) == (200, "closed")
    assert list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))[-2:] == [
        "circuit.tripped",
        "circuit.reset",
    ]


def test_each_deployment_has_a_breaker_of_its_own(manager: Client, model: Model) -> None:
    other = Provider.objects.create(
        tenant=model.tenant, name="lab-2", kind="openai-compatible", base_url="https://lab2.example/v1"
    )
    deployment = Deployment.objects.create(tenant=model.tenant, model=model, provider=other)
    tripped = manager.post(f"/api/circuit-breakers/{deployment.pk}/trip")
    assert (tripped.status_code, tripped.json()["provider"], tripped.json()["state"]) == (200, "lab-2", "open")
    states = {row["provider"]: row["state"] for row in manager.get("/api/circuit-breakers").json()["data"]}
    assert states == {"lab": "closed", "lab-2": "open"}


def test_what_is_no_entry_of_ours_harms_nobody(manager: Client, model: Model) -> None:
    with redis.Redis.from_url(settings.REDIS_URL) as connection:
        connection.hset(SHARED_KEY, "junk", b"\xff{")
    assert manager.get("/api/circuit-breakers").status_code == 200


def test_an_open_circuit_says_since_when_and_why_and_is_half_open_once_it_may_be_tried(
    manager: Client, model: Model
) -> None:
    def seen(entry: SharedCircuit) -> dict[str, object]:
        with redis.Redis.from_url(settings.REDIS_URL) as connection:
            name = f"{model.provider_id}/{model.vendor_model}"
            connection.hset(SHARED_KEY, name, msgspec.json.encode(entry).decode())
        (row,) = manager.get("/api/circuit-breakers").json()["data"]
        return {name: row[name] for name in ("state", "last_error", "by_hand", "since", "retry_at")}

    now = time.time()
    opened = seen(SharedCircuit("open", now - 1, now + 4, "timeout"))
    assert (opened["state"], opened["last_error"], opened["by_hand"]) == ("open", "timeout", False)
    since, retry_at = (datetime.fromisoformat(str(opened[name])) for name in ("since", "retry_at"))
    assert (retry_at - since).total_seconds() == pytest.approx(5, abs=0.01)
    assert seen(SharedCircuit("open", now - 9, now - 4, "timeout"))["state"] == "half_open"


@pytest.mark.parametrize("identifier", ["junk", "-" * 36])
def test_what_is_no_identifier_is_not_found(manager: Client, identifier: str) -> None:
    assert manager.post(f"/api/circuit-breakers/{identifier}/trip").status_code == 404


def test_a_foreign_model_is_as_unknown_as_none(manager: Client, foreign_model: Model) -> None:
    foreign = manager.post(f"/api/circuit-breakers/{foreign_model.pk}/trip")
    unknown = manager.post("/api/circuit-breakers/00000000-0000-7000-8000-000000000000/trip")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content


def test_a_token_for_inference_is_refused(client: Client, project: Project, actor: Actor) -> None:
    answer = client.get("/api/circuit-breakers", **bearer(project, actor, "inference"))
    assert answer.status_code == 401


def test_nobody_is_refused(client: Client) -> None:
    assert client.get("/api/circuit-breakers").status_code == 401


def test_a_viewer_may_look_and_not_switch(client: Client, tenant: Tenant, model: Model) -> None:
    user = User.objects.create_user("viewer@example.com", password=None)
    Membership.objects.create(tenant=tenant, user=user, role="viewer")
    client.force_login(user)
    assert len(client.get("/api/circuit-breakers").json()["data"]) == 1
    assert client.post(f"/api/circuit-breakers/{model.pk}/trip").status_code == 404


def test_an_operator_sees_all_and_switches_on_the_page(browser: Client, model: Model, foreign_model: Model) -> None:
    page = browser.get("/admin/circuit-breakers/").content.decode()
    assert model.name in page
    assert foreign_model.name in page

    answer = browser.post("/admin/circuit-breakers/", {"target": foreign_model.pk, "act": "trip"}, follow=True)
    assert "<strong>open</strong> by hand" in answer.content.decode()
    assert AuditEvent.objects.order_by("sequence").last().action == "circuit.tripped"  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [{}, {"act": "trip"}, {"act": "trip", "target": "junk"}])
def test_a_senseless_form_is_refused(browser: Client, form: dict[str, str]) -> None:
    assert browser.post("/admin/circuit-breakers/", form).status_code == 400


def test_the_page_says_so_when_redis_is_away(browser: Client, model: Model, settings: object) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"  # type: ignore[attr-defined]
    assert "does not answer" in browser.get("/admin/circuit-breakers/").content.decode()
