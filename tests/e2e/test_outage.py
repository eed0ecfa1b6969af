"""A vendor that is down for a while: callers do not notice, the vendor is left in peace, and is used again soon."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess

TOKEN = "outage-token-0123456789-abcdef"
DECLARATION = """
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers:
      - {{name: main, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-main"}}
      - {{name: spare, kind: anthropic, base_url: "{url}", api_key: "sk-spare"}}
    models:
      - {{name: main, provider: main, vendor_model: main-tok8, price: {{input: 1, output: 2}}, fallbacks: [spare]}}
      - {{name: lonely, provider: main, vendor_model: lonely-tok8, price: {{input: 1, output: 2}}}}
      - {{name: spare, provider: spare, vendor_model: spare-tok8, price: {{input: 1, output: 2}}}}
    tokens:
      - {{name: ci, project: web, value: {{env: OUTAGE_TOKEN}}}}
"""


@pytest.fixture(scope="module")
def vendor() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(vendor: VendorServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    database = provision.create_database(f"{provision.PREFIX}_outage_{os.getpid()}")
    folder: Path = tmp_path_factory.mktemp("outage")
    running = GatewayProcess(database, folder, BREAKER_COOL_DOWN_S="1")
    running.apply(DECLARATION.format(url=vendor.url), OUTAGE_TOKEN=TOKEN)
    with (
        running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key=TOKEN, max_retries=0, timeout=20) as client,
    ):
        yield client
    provision.drop_database(database.name)


def served_by(client: openai.OpenAI, model: str) -> str:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    return str((answer.model_extra or {})["x-gateway"]["provider"])


def test_an_outage_costs_no_caller_and_the_vendor_only_probes(client: openai.OpenAI, vendor: VendorServer) -> None:
    assert served_by(client, "main") == "main"
    vendor.script("main-tok8", ["503"] * 1000)
    asked, began = 0, time.monotonic()
    while time.monotonic() - began < 4:
        assert served_by(client, "main") == "spare"
        asked += 1
    tried = sum(call.model == "main-tok8" and call.status == 503 for call in vendor.log)
    assert asked > 50
    assert tried <= 5 + 4  # what opened the circuit, and a probe after each cool-down

    vendor.reset()
    recovered = time.monotonic()
    while served_by(client, "main") != "main":
        assert time.monotonic() - recovered < 30
        time.sleep(0.1)


def test_without_another_target_the_caller_is_told_when_to_come_back(
    client: openai.OpenAI, vendor: VendorServer
) -> None:
    vendor.script("lonely-tok8", ["503"] * 1000)
    for _ in range(5):
        with pytest.raises(openai.InternalServerError):
            served_by(client, "lonely")
    calls = sum(call.model == "lonely-tok8" for call in vendor.log)
    with pytest.raises(openai.InternalServerError) as failure:
        served_by(client, "lonely")
    assert (failure.value.status_code, failure.value.code) == (503, "overloaded")
    assert int(failure.value.response.headers["retry-after"]) >= 1
    assert sum(call.model == "lonely-tok8" for call in vendor.log) == calls
    vendor.reset()
