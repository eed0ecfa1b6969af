"""`auto`, `fast`, `cheap`, `best`: the gateway chooses, says why, and writes down what it weighed."""

import os
import time
from collections.abc import Iterator
from typing import Any

import openai
import psycopg
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess
from tests.provision import Database

TOKENS = {name: f"route-{name}-0123456789-abcdefgh" for name in ("all", "small", "none")}
ASKED = [{"role": "user", "content": "Write a Python function that reverses a list."}]


def declaration(url: str, routing: str = "") -> str:
    return f"""
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers:
      - {{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}
      - {{name: claude, kind: anthropic, base_url: "{url}", api_key: "sk-ant"}}
      - {{name: nowhere, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1", api_key: "sk-n"}}
    models:
      - {{name: small, provider: lab, vendor_model: small-tok8, price: {{input: 0.15, output: 0.6}}, capabilities: [tools, streaming], context_window: 8000}}
      - {{name: large, provider: claude, vendor_model: large-tok8, price: {{input: 2.5, output: 10}}, capabilities: [tools, vision, streaming], context_window: 100000}}
    tokens:
      - {{name: all, project: web, value: {TOKENS["all"]}, models: ["*"]}}
      - {{name: small, project: web, value: {TOKENS["small"]}, models: [small]}}
      - {{name: none, project: web, value: {TOKENS["none"]}, models: [auto]}}
{routing}
"""


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    made = provision.create_database(f"{provision.PREFIX}_routing_{os.getpid()}")
    yield made
    provision.drop_database(made.name)


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    vendors: VendorServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    started = GatewayProcess(database, tmp_path_factory.mktemp("routing"))
    started.apply(declaration(vendors.url))
    with started:
        yield started


def sdk(gateway: GatewayProcess, token: str = "all") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKENS[token], max_retries=0, timeout=30)


def told(answer: Any) -> dict[str, Any]:
    return answer.model_extra["x-gateway"]


def decision(database: Database, request_id: str) -> dict[str, Any]:
    """The row of a decision, once it is written."""
    query = "SELECT to_jsonb(d) FROM routing_decision d WHERE request_id = %s"
    for _ in range(50):
        with psycopg.connect(database.url) as connection:
            found = connection.execute(query, [request_id]).fetchone()
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no decision was written")


def test_auto_answers_and_says_why(gateway, database) -> None:
    with sdk(gateway) as client:
        meta = told(client.chat.completions.create(model="auto", messages=ASKED))
    routing = meta["routing"]
    assert meta["model"] in ("small", "large")
    assert (routing["strategy"], routing["task_type"], routing["propensity"]) == ("balanced", "coding", 1.0)
    assert routing["reason"].startswith(f"{meta['model']}: expected quality")
    assert sorted(routing["candidates"]["model"]) == ["large", "small"]
    row = decision(database, meta["request_id"])
    assert (row["chosen"], row["model_name"], row["engine"], row["status"]) == (
        meta["model"],
        meta["model"],
        "hier",
        200,
    )
    assert row["reason"] == routing["reason"]


@pytest.mark.parametrize(("name", "model"), [("cheap", "small"), ("best", "large")])
def test_a_virtual_name_means_its_strategy(gateway, name: str, model: str) -> None:
    with sdk(gateway) as client:
        assert told(client.chat.completions.create(model=name, messages=ASKED))["model"] == model


def test_no_name_is_auto(gateway) -> None:
    with sdk(gateway) as client:
        assert told(client.chat.completions.create(model="", messages=ASKED))["routing"]["strategy"] == "balanced"


def test_a_request_may_choose_its_strategy(gateway) -> None:
    with sdk(gateway) as client:
        meta = told(
            client.chat.completions.create(
                model="auto", messages=ASKED, extra_headers={"x-gateway-routing-strategy": "quality"}
            )
        )
    assert (meta["routing"]["strategy"], meta["model"]) == ("quality", "large")


def test_a_model_that_is_named_is_never_overridden(gateway) -> None:
    with sdk(gateway) as client:
        meta = told(
            client.chat.completions.create(model="small", messages=ASKED, extra_body={"x-routing-strategy": "quality"})
        )
    assert (meta["model"], meta["routing"]["reason"]) == ("small", "the caller named the model")


def test_only_what_the_key_may_use_is_chosen(gateway) -> None:
    with sdk(gateway, "small") as client:
        assert told(client.chat.completions.create(model="best", messages=ASKED))["model"] == "small"
    with sdk(gateway, "none") as client, pytest.raises(openai.PermissionDeniedError, match="none of the models"):
        client.chat.completions.create(model="auto", messages=ASKED)


def test_an_image_goes_to_a_model_that_sees(gateway) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    with sdk(gateway) as client:
        meta = told(client.chat.completions.create(model="cheap", messages=asked))
        assert (meta["model"], meta["routing"]["task_type"]) == ("large", "vision")
        assert "images" in meta["routing"]["removed"]["small"]
    with (
        sdk(gateway, "small") as client,
        pytest.raises(openai.BadRequestError, match=r"capability removed small \(.*images"),
    ):
        client.chat.completions.create(model="auto", messages=asked)


def test_a_stream_tells_it_in_its_last_chunk(gateway) -> None:
    with sdk(gateway) as client:
        chunks = list(client.chat.completions.create(model="auto", messages=ASKED, stream=True))
    last = next(chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason)
    assert told(last)["routing"]["strategy"] == "balanced"


def test_words_that_mean_nothing_are_refused(gateway) -> None:
    with sdk(gateway) as client, pytest.raises(openai.BadRequestError, match="x-task-type"):
        client.chat.completions.create(model="auto", messages=ASKED, extra_body={"x-task-type": "cooking"})


def test_the_list_of_models_has_the_names_that_leave_the_choice_to_us(gateway) -> None:
    with sdk(gateway) as client:
        owners = {model.id: model.owned_by for model in client.models.list()}
        assert {name for name, owner in owners.items() if owner == "pointsman"} == {"auto", "best", "cheap", "fast"}
        assert client.models.retrieve("auto").id == "auto"
    with sdk(gateway, "none") as client:
        assert [model.id for model in client.models.list()] == []
