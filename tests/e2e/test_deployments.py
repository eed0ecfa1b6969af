"""Several deployments of one model: shares, conversations that stay, and what one deployment's failure costs."""

import os
import time
from collections import Counter
from collections.abc import Iterator

import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess

TOKEN = "deploy-token-0123456789-abcdefgh"
ASKED = [{"role": "user", "content": "hello"}]


def declaration(url: str) -> str:
    providers = "\n".join(
        f'      - {{name: {name}, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-{name}", weight: {weight}}}'
        for name, weight in (("eu", 1), ("us", 3), ("spare", 0))
    )
    for name in ("asia", "africa"):
        providers += f'\n      - {{name: {name}, kind: openai-responses, base_url: "{url}/v1", api_key: "sk-{name}"}}'
    price = "price: {input: 1, output: 2}"
    return f"""
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers:
{providers}
    models:
      - {{name: shared, provider: eu, vendor_model: shared-tok8, balancing: weighted, {price}, deployments: [{{provider: us}}, {{provider: spare}}]}}
      - {{name: lame, provider: us, vendor_model: lame-503, balancing: weighted, {price}, deployments: [{{provider: spare, vendor_model: sound-tok8}}]}}
      - {{name: second, provider: eu, vendor_model: second-503, {price}, deployments: [{{provider: us, vendor_model: second-tok8}}]}}
      - {{name: stored, provider: asia, vendor_model: stored-tok8, balancing: weighted, {price}, deployments: [{{provider: africa}}]}}
      - {{name: blind, provider: eu, vendor_model: blind-tok8, {price}, capabilities: [tools], fallbacks: [sighted]}}
      - {{name: sighted, provider: eu, vendor_model: sighted-tok8, {price}, capabilities: [tools, vision]}}
      - {{name: seeing, provider: eu, vendor_model: seeing-503, {price}, capabilities: [vision], fallbacks: [blind, sighted]}}
    tokens:
      - {{name: ci, project: web, value: {{env: DEPLOY_TOKEN}}, models: ['*']}}
"""


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(vendors: VendorServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    database = provision.create_database(f"{provision.PREFIX}_deployments_{os.getpid()}")
    running = GatewayProcess(database, tmp_path_factory.mktemp("deployments"))
    running.apply(declaration(vendors.url), DEPLOY_TOKEN=TOKEN)
    with running, openai.OpenAI(base_url=f"{running.url}/v1", api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client
    provision.drop_database(database.name)


def provider_of(client: openai.OpenAI, model: str, **more) -> str:
    answer = client.chat.completions.create(model=model, messages=ASKED, **more)
    return answer.model_extra["x-gateway"]["provider"]


def test_requests_are_shared_by_weight_and_the_reserve_is_left_alone(client):
    counts = Counter(provider_of(client, "shared") for _ in range(80))
    assert set(counts) == {"eu", "us"}
    assert counts["us"] > counts["eu"]


def test_a_session_stays_with_its_deployment(client):
    homes = {
        session: {provider_of(client, "shared", extra_headers={"x-gateway-x-session-id": session}) for _ in range(3)}
        for session in (f"session-{number}" for number in range(48))  # by hashes of random ids: enough for both
    }
    assert all(len(home) == 1 for home in homes.values())
    assert set.union(*homes.values()) == {"eu", "us"}


def test_a_prompt_cache_key_keeps_a_conversation_where_its_cache_is(client):
    homes = {provider_of(client, "shared", prompt_cache_key="cache-1") for _ in range(6)}
    assert len(homes) == 1


@pytest.mark.parametrize(("model", "answers"), [("lame", "spare"), ("second", "us")])
def test_when_a_deployment_fails_the_next_one_answers(client, model, answers):
    answer = client.chat.completions.create(model=model, messages=ASKED)
    told = answer.model_extra["x-gateway"]
    assert (told["provider"], told["model"], told["fallback_used"]) == (answers, model, True)


IMAGE = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    }
]


def test_content_a_model_cannot_take_is_refused_clearly(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="blind", messages=IMAGE)
    assert refused.value.code == "unsupported_content"
    assert "images" in refused.value.message


def test_a_fallback_that_cannot_take_the_content_is_left_out(client):
    answer = client.chat.completions.create(model="seeing", messages=IMAGE)
    told = answer.model_extra["x-gateway"]
    assert [attempt["model"] for attempt in told["attempts"] if attempt["model"] != "seeing"] == ["sighted"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_gone_on_from_is_found_where_it_is_stored(client, stream):
    def ask(**more) -> tuple[str, str]:
        """(id of the answer, who gave it)"""
        raw = client.responses.with_raw_response.create(model="stored", input="hello", stream=stream, **more)
        answer = raw.parse()
        if stream:
            answer = list(answer)[-1].response
        return answer.id, raw.headers["x-gateway-provider"]

    homes: set[str] = set()
    for round_ in range(40):
        if round_ >= 4 and len(homes) == 2:  # by chance: not all too soon
            break
        answer_id, home = ask()
        time.sleep(0.05)  # it is written down beside the traffic
        assert {ask(previous_response_id=answer_id)[1] for _ in range(3)} == {home}
        homes.add(home)
    assert homes == {"asia", "africa"}
