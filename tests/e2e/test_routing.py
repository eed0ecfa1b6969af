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

TOKENS = {
    name: f"route-{name}-0123456789-abcdefgh"
    for name in ("all", "small", "none", "alias", "advised", "unadvised", "halting", "capped", "limited", "tested")
}
ASKED = [{"role": "user", "content": "Write a Python function that reverses a list."}]


def others(url: str) -> str:
    """Tenants that each show one thing: what follows when the first choice cannot answer, and what rules do."""
    lab = f'{{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}'
    nowhere = '{name: nowhere, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1", api_key: "sk-n"}'
    small = "price: {input: 0.15, output: 0.6}"
    large = "price: {input: 2.5, output: 10}"
    first = f"{{name: first, provider: lab, vendor_model: first-tok8, {small}}}"
    second = f"{{name: second, provider: lab, vendor_model: second-tok8, {large}}}"
    ask = "rules: [{rule: models, deny: [adviser]}, {rule: llm, model: adviser, timeout_s: 1}]"

    def tenant(name: str, models: list[str], *rest: str, providers: str = lab) -> str:
        lines = [
            f"  - slug: {name}",
            "    projects: [{slug: web}]",
            f"    providers: [{providers}]",
            f"    models: [{', '.join(models)}]",
            f'    tokens: [{{name: {name}, project: web, value: {TOKENS[name]}, models: ["*"]}}]',
            *(f"    {line}" for line in rest),
        ]
        return "\n".join(lines)

    # The adviser's answer is "tok1 tok2", which is the name of a candidate.
    tok2 = f"{{name: tok2, provider: lab, vendor_model: named-tok8, {large}}}"
    adviser = f"{{name: adviser, provider: lab, vendor_model: adviser-tok2, {small}}}"
    mute = f"{{name: adviser, provider: lab, vendor_model: adviser-silent, {small}}}"
    dead = f"{{name: first, provider: nowhere, vendor_model: first-tok8, {small}}}"
    tenants = [
        tenant("alias", [first, second], "aliases: [{name: auto, model: second}, {name: clever, model: best}]"),
        tenant("advised", [first, tok2, adviser], f"routing: {{strategy: cost, {ask}}}"),
        tenant("unadvised", [first, tok2, mute], f"routing: {{strategy: cost, {ask}}}"),
        tenant("halting", [dead, second], providers=f"{lab}, {nowhere}"),
        tenant("capped", [first, second], "budgets: [{name: b, scope: model, of: first, limit: {usd: 0}}]"),
        tenant("limited", [first, second], "limits: [{scope: model, of: first, requests_per_minute: 2}]"),
        tenant("tested", [first, second], "experiments: [{name: first-or-second, arms: [first, second]}]"),
    ]
    return "\n".join(tenants)


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
{others(url)}
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
    assert sorted(one["model"] for one in routing["candidates"]) == ["large", "small"]
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


# ---------------------------------------------------------------------- when the first choice cannot answer


CHEAP: dict[str, Any] = {"model": "cheap", "messages": ASKED}


def test_the_next_candidate_answers_when_the_firsts_vendor_is_down(gateway, database) -> None:
    with sdk(gateway, "halting") as client:
        meta = told(client.chat.completions.create(**CHEAP))
    assert (meta["model"], meta["fallback_used"]) == ("second", True)
    assert [one["model"] for one in meta["routing"]["candidates"]] == ["first", "second"]
    assert {attempt["model"] for attempt in meta["attempts"]} == {"first", "second"}
    row = decision(database, meta["request_id"])
    assert (row["chosen"], row["model_name"]) == ("first", "second")


def test_without_fallback_nobody_takes_its_place(gateway) -> None:
    with sdk(gateway, "halting") as client, pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**CHEAP, extra_body={"x-fallback": False})
    assert refused.value.status_code in (502, 503)  # 503 once its circuit is open


def test_a_model_whose_own_budget_is_spent_gives_way(gateway) -> None:
    with sdk(gateway, "capped") as client:
        assert told(client.chat.completions.create(**CHEAP))["model"] == "second"
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="first", messages=ASKED)
    assert refused.value.status_code == 402


def test_a_limit_of_one_model_holds_for_whoever_leaves_the_choice(gateway) -> None:
    with sdk(gateway, "limited") as client:
        answers = []
        for _ in range(3):
            try:
                answers.append(told(client.chat.completions.create(**CHEAP))["model"])
            except openai.RateLimitError:
                answers.append("limited")
        assert answers == ["first", "first", "limited"]
        assert told(client.chat.completions.create(model="best", messages=ASKED))["model"] == "second"


# ---------------------------------------------------------------------- wishes of tenants and callers


def test_an_alias_of_that_name_wins(gateway) -> None:
    with sdk(gateway, "alias") as client:
        meta = told(client.chat.completions.create(model="auto", messages=ASKED))
        assert (meta["model"], meta["routing"]["strategy"]) == ("second", "explicit")
        assert "auto" in {model.id for model in client.models.list()}


def test_an_alias_may_be_a_way_to_choose(gateway) -> None:
    with sdk(gateway, "alias") as client:
        meta = told(client.chat.completions.create(model="clever", messages=ASKED))
        assert (meta["model"], meta["routing"]["strategy"]) == ("second", "quality")
        assert client.models.retrieve("clever").owned_by == client.models.retrieve("best").owned_by


def test_the_preferred_provider_answers(gateway) -> None:
    for provider, model in (("lab", "small"), ("claude", "large")):
        with sdk(gateway) as client:
            asked = client.chat.completions.create(**CHEAP, extra_body={"x-prefer-provider": provider})
        assert told(asked)["model"] == model


def test_a_preferred_provider_that_there_is_not_is_refused_with_near_names(gateway) -> None:
    with (
        sdk(gateway) as client,
        pytest.raises(openai.BadRequestError, match="There is no provider 'cloude'") as refused,
    ):
        client.chat.completions.create(**CHEAP, extra_body={"x-prefer-provider": "cloude"})
    assert "claude" in refused.value.message and refused.value.param == "x-prefer-provider"


def test_a_model_is_asked_which_and_its_answer_is_followed(gateway) -> None:
    with sdk(gateway, "advised") as client:
        meta = told(client.chat.completions.create(model="auto", messages=ASKED))
    assert meta["model"] == "tok2"
    assert "not chosen by the model that was asked" in meta["routing"]["removed"]["first"]
    lines = gateway.line_of(meta["request_id"])
    assert sorted((line["purpose"], line["model"]) for line in lines) == [("classify", "adviser"), ("serve", "tok2")]


def test_a_model_that_says_nothing_in_time_is_not_waited_for(gateway) -> None:
    begun = time.monotonic()
    with sdk(gateway, "unadvised") as client:
        meta = told(client.chat.completions.create(model="auto", messages=ASKED))
    assert meta["model"] == "first"
    assert 0.9 < time.monotonic() - begun < 10


def test_a_session_stays_with_its_arm_of_an_experiment(gateway, database) -> None:
    with sdk(gateway, "tested") as client:
        arms: dict[str, set[str]] = {}
        for number in range(16):
            session = f"session-{number % 8}"
            asked = client.chat.completions.create(
                model="auto", messages=ASKED, extra_headers={"x-gateway-session-id": session}
            )
            meta = told(asked)
            assert meta["routing"]["experiment"] == "first-or-second"
            assert meta["routing"]["propensity"] == 0.5
            arms.setdefault(session, set()).add(meta["model"])
    assert all(len(models) == 1 for models in arms.values())
    assert set.union(*arms.values()) == {"first", "second"}
    row = decision(database, meta["request_id"])
    assert (row["engine"], row["arm"], len(row["unit"])) == ("experiment", meta["model"], 32)


def test_what_is_no_chat_has_to_name_its_model(gateway) -> None:
    with sdk(gateway) as client, pytest.raises(openai.BadRequestError, match="name a model"):
        client.embeddings.create(model="auto", input="x")


def test_the_demo_tenant_answers_without_a_name_of_a_model(gateway) -> None:
    text = gateway.manage("shell", "-c", "from gateway.first_run import prepare_demo; print(prepare_demo())").stdout
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=text.split()[-1], max_retries=0, timeout=30) as client:
        meta = told(client.chat.completions.create(model="auto", messages=ASKED))
    assert meta["model"] == "demo"
