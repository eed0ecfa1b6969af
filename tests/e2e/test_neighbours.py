"""One tenant's dead vendor and bad key are that tenant's alone, and the vendor is not hammered."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess

UNLUCKY, NEIGHBOUR = "unlucky-token-0123456789-abcdef", "neighbour-token-0123456789-abcde"
WRONG_KEY, RIGHT_KEY = "sk-wrong", "sk-right"
REQUESTS = 60
MOST_ATTEMPTS = 1.2 * REQUESTS + 10
DECLARATION = """
tenants:
  - slug: unlucky
    projects: [{{slug: web}}]
    providers:
      - {{name: dead, kind: openai-compatible, base_url: "{dead}/v1", api_key: "sk-dead", deadlines: {{first_token: 1}}}}
      - {{name: gone, kind: openai-compatible, base_url: "http://127.0.0.1:9/v1", api_key: "sk-gone"}}
      - {{name: shared, kind: openai-compatible, base_url: "{shared}/v1", api_key: "{wrong}"}}
    models:
      - {{name: failing, provider: dead, vendor_model: failing-500, price: {{input: 1, output: 2}}}}
      - {{name: resetting, provider: dead, vendor_model: resetting-reset, price: {{input: 1, output: 2}}}}
      - {{name: silent, provider: dead, vendor_model: silent-silent, price: {{input: 1, output: 2}}}}
      - {{name: shaky, provider: dead, vendor_model: shaky-tok8, price: {{input: 1, output: 2}}}}
      - {{name: refused, provider: gone, vendor_model: refused-tok8, price: {{input: 1, output: 2}}}}
      - {{name: locked, provider: shared, vendor_model: popular-tok8, price: {{input: 1, output: 2}}}}
    tokens: [{{name: ci, project: web, value: {{env: UNLUCKY_TOKEN}}}}]
  - slug: neighbour
    projects: [{{slug: web}}]
    providers:
      - {{name: shared, kind: openai-compatible, base_url: "{shared}/v1", api_key: "{right}"}}
      - {{name: shared-too, kind: openai-compatible, base_url: "{shared}/v1", api_key: "{wrong}"}}
    models:
      - {{name: open, provider: shared, vendor_model: popular-tok8, price: {{input: 1, output: 2}}}}
      - {{name: locked, provider: shared-too, vendor_model: popular-tok8, price: {{input: 1, output: 2}}}}
    tokens: [{{name: ci, project: web, value: {{env: NEIGHBOUR_TOKEN}}}}]
"""


@pytest.fixture(scope="module")
def dead() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[VendorServer]:
    with VendorServer([RIGHT_KEY], process=True) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    dead: VendorServer, shared: VendorServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_neighbours_{os.getpid()}")
    # A cool-down longer than the tests: what opens stays open.
    running = GatewayProcess(database, tmp_path_factory.mktemp("neighbours"), BREAKER_COOL_DOWN_S="60")
    running.apply(
        DECLARATION.format(dead=dead.url, shared=shared.url, wrong=WRONG_KEY, right=RIGHT_KEY),
        UNLUCKY_TOKEN=UNLUCKY,
        NEIGHBOUR_TOKEN=NEIGHBOUR,
    )
    with running:
        yield running
    provision.drop_database(database.name)


@pytest.fixture(autouse=True)
def empty_logs(dead: VendorServer, shared: VendorServer) -> None:
    dead.reset()
    shared.reset()


class Tenant:
    """Asks one thing after another over one connection."""

    def __init__(self, gateway: GatewayProcess, token: str) -> None:
        self._http = httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {token}"}, timeout=20)

    def ask(self, model: str) -> tuple[int, float]:
        """The status, and after how many seconds."""
        started = time.monotonic()
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        answer = self._http.post("/v1/chat/completions", json=body)
        return answer.status_code, time.monotonic() - started

    def ask_often(self, model: str, times: int = REQUESTS) -> list[tuple[int, float]]:
        return [self.ask(model) for _ in range(times)]

    def __enter__(self) -> "Tenant":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


def test_a_tenant_is_served_while_its_neighbours_vendors_are_dead(gateway: GatewayProcess, dead: VendorServer) -> None:
    kinds = ("failing", "resetting", "silent", "refused", "locked")
    with ExitStack() as callers, ThreadPoolExecutor(12) as threads:
        bad = [callers.enter_context(Tenant(gateway, UNLUCKY)) for _ in range(2 * len(kinds))]
        good = [callers.enter_context(Tenant(gateway, NEIGHBOUR)) for _ in range(2)]
        failing = [
            threads.submit(tenant.ask_often, kind, REQUESTS // 2) for tenant, kind in zip(bad, kinds * 2, strict=True)
        ]
        served = [threads.submit(tenant.ask_often, "open") for tenant in good]
        answers = [answer for asked in served for answer in asked.result()]
        failures = Counter(status for asked in failing for status, _ in asked.result())

    slowest_s = max(seconds for _, seconds in answers)
    attempts = Counter(call.model for call in dead.log)
    print(
        f"neighbour: {len(answers)} answers, slowest {slowest_s * 1000:.0f} ms; unlucky: {failures}; attempts: {attempts}"
    )
    assert Counter(status for status, _ in answers) == {200: 2 * REQUESTS}
    assert slowest_s < 2
    assert failures.keys() <= {502, 503, 504}
    assert all(made <= MOST_ATTEMPTS for made in attempts.values())


def test_a_vendor_that_fails_now_and_then_is_not_asked_much_more_often_than_callers_ask(
    gateway: GatewayProcess, dead: VendorServer
) -> None:
    dead.script("shaky-tok8", ["500", "ok", "ok"] * REQUESTS)
    with Tenant(gateway, UNLUCKY) as tenant:
        statuses = Counter(status for status, _ in tenant.ask_often("shaky"))
    attempts = len(dead.log)
    print(f"{REQUESTS} requests, {attempts} attempts: {statuses}")
    assert 503 not in statuses  # its circuit stayed closed: the retry budget alone is what counts here
    assert REQUESTS < attempts <= MOST_ATTEMPTS


def test_a_circuit_belongs_to_one_key_and_not_to_an_address(gateway: GatewayProcess, shared: VendorServer) -> None:
    with Tenant(gateway, UNLUCKY) as unlucky, Tenant(gateway, NEIGHBOUR) as neighbour:
        assert unlucky.ask_often("locked", 10)[-1][0] == 503
        tried = len(shared.log)
        assert unlucky.ask("locked")[0] == 503
        assert len(shared.log) == tried  # open: the vendor is left alone

        assert [status for status, _ in neighbour.ask_often("open", 10)] == [200] * 10
        # The very same address, model and key, saved by another tenant: refused by the vendor, not by us.
        assert neighbour.ask("locked")[0] == 502
        assert [status for status, _ in neighbour.ask_often("locked", 10)][-1] == 503
        assert [status for status, _ in neighbour.ask_often("open", 10)] == [200] * 10
