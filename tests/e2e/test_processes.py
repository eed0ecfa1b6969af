"""Processes that die, and accelerators that are away."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.conftest import TOKEN
from tests.e2e.gateway_process import GatewayProcess

MESSAGES = [{"role": "user", "content": "one two three"}]
DECLARATION = """
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers: [{{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}]
    models: [{{name: small, provider: lab, vendor_model: small-tok8, price: {{input: 0.15, output: 0.60}}}}]
    tokens: [{{name: ci, project: web, value: {{env: E2E_TOKEN}}, models: ["*"]}}]
"""


def own_gateway(vendors: VendorServer, folder: Path, **settings: str) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_{folder.name.replace('-', '_')}_{os.getpid()}")
    gateway = GatewayProcess(database, folder, **settings)
    gateway.apply(DECLARATION.format(url=vendors.url), E2E_TOKEN=TOKEN)
    with gateway:
        yield gateway
    provision.drop_database(database.name)


@pytest.fixture
def without_redis(vendors: VendorServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    yield from own_gateway(vendors, tmp_path, REDIS_URL="redis://127.0.0.1:9/0", IP_RATE_LIMIT="100000")


@pytest.fixture
def own(vendors: VendorServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    yield from own_gateway(vendors, tmp_path)


def ask(gateway: GatewayProcess, client: httpx.Client) -> httpx.Response:
    body = {"model": "small", "messages": MESSAGES}
    return client.post(
        f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {TOKEN}"}, timeout=20
    )


def test_without_redis_every_request_is_served_and_says_so(without_redis: GatewayProcess) -> None:
    with httpx.Client() as client:
        answers = [ask(without_redis, client) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["x-gateway-degraded"] == "ratelimit"


def test_every_request_of_many_at_once_is_in_the_ledger(own: GatewayProcess, vendors: VendorServer) -> None:
    vendors.reset()
    each, workers = 25, 16

    def work() -> None:
        with httpx.Client() as client:
            for _ in range(each):
                assert ask(own, client).status_code == 200

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own.stop()
    lines = own.ledger(state="settled")
    assert len(lines) == each * workers == len(vendors.log)
    assert sum(line["output_tokens"] for line in lines) == sum(call.metered.output for call in vendors.log)
    assert len({line["attempt_id"] for line in lines}) == len(lines)


def test_a_killed_gateway_leaves_its_attempts_on_the_ledger(own: GatewayProcess) -> None:
    body = {"model": "small", "messages": MESSAGES}
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key=TOKEN, max_retries=0) as client:
        client.chat.completions.create(**body)
        own.kill()
        with pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**body)
        own.start()
        client.chat.completions.create(**body)
    own.stop()
    assert len(own.ledger()) == 2


def test_a_taken_port_is_one_clear_line(gateway: GatewayProcess) -> None:
    done = gateway.manage("up", check=False)
    assert done.returncode == 1
    assert f"Port {gateway.port} on 127.0.0.1 cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1
