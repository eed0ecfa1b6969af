"""Limits of requests, tokens and concurrency, at every scope, over two processes and one Redis."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision, redis_server
from tests.e2e.gateway_process import GatewayProcess
from tests.redis_server import RedisServer

TOKENS = {
    name: f"limits-{name}-0123456789-abcdefgh"
    for name in ("streams", "tokens", "small", "users", "models", "requests", "alone", "alone2", "drained", "hostile")
}
ASKED = [{"role": "user", "content": "How fast?"}]
AT_ONCE, OF_TOKENS = 4, 3_000
TOLD = "x-ratelimit-{}-{}".format


def declaration(url: str) -> str:
    tokens = "\n".join(
        f"      - {{name: {name}, project: {name if name in ('streams', 'drained') else 'web'}, value: {value}, models: ['*']}}"
        for name, value in TOKENS.items()
    )
    return f"""
tenants:
  - slug: acme
    projects: [{{slug: web}}, {{slug: streams}}, {{slug: drained}}]
    providers:
      - {{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}
      - {{name: drain, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-d", on_disconnect: drain}}
    models:
      - {{name: quick, provider: lab, vendor_model: quick-tok8}}
      - {{name: slow, provider: lab, vendor_model: slow-tok200-gap100}}
      - {{name: drained, provider: drain, vendor_model: drained-tok30-gap100}}
      - {{name: rare, provider: lab, vendor_model: rare-tok8}}
      - {{name: broken, provider: lab, vendor_model: broken-400}}
    tokens:
{tokens}
    limits:
      - {{scope: project, of: streams, concurrent: {AT_ONCE}}}
      - {{scope: project, of: drained, concurrent: 1}}
      - {{scope: token, of: tokens, tokens_per_minute: {OF_TOKENS}}}
      - {{scope: token, of: small, tokens_per_minute: 500, requests_per_minute: 50}}
      - {{scope: token, of: requests, requests_per_minute: 20}}
      - {{scope: token, of: hostile, requests_per_minute: 3, tokens_per_minute: 100000}}
      - {{scope: token, of: alone, requests_per_minute: 3}}
      - {{scope: token, of: alone2, concurrent: 1}}
      - {{scope: user, of: "*", requests_per_minute: 2}}
      - {{scope: model, of: rare, requests_per_minute: 2}}
"""


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def gateways(
    vendors: VendorServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    database = provision.create_database(f"{provision.PREFIX}_limits_{os.getpid()}")
    first, second = (
        GatewayProcess(database, tmp_path_factory.mktemp(f"limits{n}"), REDIS_URL=f"unix://{redis.socket_path}")
        for n in (1, 2)
    )
    first.apply(declaration(vendors.url))
    with first, second:
        yield first, second
    provision.drop_database(database.name)


def post(gateway: GatewayProcess, token: str, *, key: str = "", **body: Any) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {TOKENS[token]}"} | ({"idempotency-key": key} if key else {}),
        json={"model": "quick", "messages": ASKED, **body},
        timeout=30,
    )


def until_served(gateway: GatewayProcess, token: str, within_s: float = 10, **body: Any) -> httpx.Response:
    """The answer as soon as there is room for the request again."""
    deadline = time.monotonic() + within_s
    while (answer := post(gateway, token, **body)).status_code == 429 and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


class OpenStream:
    """A stream that is held open until the block ends, and then hung up on."""

    def __init__(self, gateway: GatewayProcess, token: str, model: str = "slow") -> None:
        self._client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKENS[token], max_retries=0, timeout=30)
        self._model = model

    def __enter__(self) -> "OpenStream":
        self._stream = self._client.chat.completions.create(model=self._model, messages=ASKED, stream=True)  # type: ignore[call-overload]
        next(iter(self._stream))
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._client.close()


# --------------------------------------------------------------------------- concurrency


def test_one_stream_more_than_the_limit_is_refused_at_once_and_passes_when_one_has_ended(
    gateways: tuple[GatewayProcess, GatewayProcess],
) -> None:
    with ExitStack() as streams:
        held = [streams.enter_context(OpenStream(gateways[n % 2], "streams")) for n in range(AT_ONCE)]

        for gateway in gateways:
            started = time.monotonic()
            refused = post(gateway, "streams", stream=True)
            assert time.monotonic() - started < 2
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            error = refused.json()["error"]
            assert error["code"] == "rate_limit_exceeded"
            assert f"this project: {AT_ONCE} requests at a time" in error["message"]

        held[0].__exit__()
        for gateway in reversed(gateways):
            assert until_served(gateway, "streams").status_code == 200


def test_requests_that_come_together_never_exceed_the_limit(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    assert until_served(gateways[0], "streams").status_code == 200  # nothing is left of what went before
    time.sleep(0.3)

    def ask(number: int) -> int:
        return post(gateways[number % 2], "streams", model="slow", max_tokens=20).status_code

    with ThreadPoolExecutor(16) as callers:
        outcomes = Counter(callers.map(ask, range(16)))

    assert outcomes == {200: AT_ONCE, 429: 16 - AT_ONCE}


def test_a_request_that_fails_gives_its_slot_back(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    for body in ({"model": "broken"}, {"model": "nobody-has-it"}, {"messages": "no list"}, {"model": "quick"}):
        for _ in range(AT_ONCE + 1):
            answer = post(gateways[0], "streams", **body)
            assert answer.status_code in (200, 400, 404), answer.text


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_idempotent_call_and_its_replays_give_their_slots_back(
    gateways: tuple[GatewayProcess, GatewayProcess], streamed: bool
) -> None:
    for number in range(AT_ONCE + 1):
        for _ in range(2):
            answer = post(gateways[0], "streams", key=f"limits-{streamed}-{number}", stream=streamed)
            assert answer.status_code == 200, answer.text
    assert answer.headers["x-gateway-idempotent-replay"] == "true"


def test_a_vendor_that_works_on_for_nobody_keeps_the_slot_until_it_is_done(
    gateways: tuple[GatewayProcess, GatewayProcess],
) -> None:
    with OpenStream(gateways[0], "drained", "drained"):
        pass
    assert post(gateways[0], "drained").status_code == 429

    assert until_served(gateways[1], "drained").status_code == 200


# --------------------------------------------------------------------------- tokens


def test_tokens_are_corrected_by_what_the_vendor_counted(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    answers = [until_served(gateways[n % 2], "tokens") for n in range(12)]  # estimated at more than 12,000 tokens

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers[TOLD("limit", "tokens")] for answer in answers} == {str(OF_TOKENS)}
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers)
    time.sleep(0.5)  # corrections reach other processes a moment later
    last = post(gateways[0], "tokens")
    remaining = int(last.headers[TOLD("remaining", "tokens")])
    assert OF_TOKENS - 1100 - used <= remaining < OF_TOKENS - 1000  # its own estimate is all that is not counted yet
    assert last.headers[TOLD("reset", "tokens")].endswith("s")


def test_a_request_larger_than_the_whole_limit_is_refused_for_good(
    gateways: tuple[GatewayProcess, GatewayProcess],
) -> None:
    refused = post(gateways[0], "small", max_tokens=5_000)
    fitting = post(gateways[0], "small", max_tokens=100)

    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    assert "larger than the rate limit for this API key" in refused.json()["error"]["message"]
    assert fitting.status_code == 200


def test_the_anthropic_dialect_is_told_in_its_own_headers(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    with anthropic.Anthropic(base_url=gateways[0].url, api_key=TOKENS["small"], max_retries=0) as client:
        answer = client.messages.with_raw_response.create(model="quick", max_tokens=50, messages=ASKED)  # type: ignore[arg-type]
        with pytest.raises(anthropic.RateLimitError) as refused:
            client.messages.create(model="quick", max_tokens=5_000, messages=ASKED)  # type: ignore[arg-type]

    told = answer.headers
    assert told["anthropic-ratelimit-requests-limit"] == "50"
    assert told["anthropic-ratelimit-tokens-limit"] == "500"
    assert int(told["anthropic-ratelimit-tokens-remaining"]) < 500
    assert told["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert told[TOLD("limit", "tokens")] == "500"
    assert refused.value.response.headers["anthropic-ratelimit-tokens-limit"] == "500"


# --------------------------------------------------------------------------- scopes


def test_requests_are_counted_exactly_over_processes(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda n: post(gateways[n % 2], "requests"), range(30)))

    outcomes = Counter(answer.status_code for answer in answers)
    assert outcomes[200] in (20, 21, 22, 23)  # one more drains every three seconds
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "this API key: 20 requests per minute" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1


def test_each_end_user_has_a_limit_of_its_own(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    answers = [post(gateways[n % 2], "users", user=user).status_code for user in ("ann", "bob") for n in range(3)]
    nobody = [post(gateways[0], "users").status_code for _ in range(4)]

    assert answers == [200, 200, 429, 200, 200, 429]
    assert nobody == [200] * 4


def test_a_models_limit_holds_for_that_model(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    rare = [post(gateways[n % 2], "models", model="rare") for n in range(3)]

    assert [answer.status_code for answer in rare] == [200, 200, 429]
    assert "this model: 2 requests per minute" in rare[2].json()["error"]["message"]
    assert post(gateways[0], "models").status_code == 200


def test_bodies_that_cannot_be_read_count_as_requests(gateways: tuple[GatewayProcess, GatewayProcess]) -> None:
    answers = [post(gateways[0], "hostile", messages="no list").status_code for _ in range(4)]

    assert answers == [400, 400, 400, 429]


# --------------------------------------------------------------------------- Redis away (last: it is stopped)


def test_limits_hold_in_each_process_while_redis_is_away(
    gateways: tuple[GatewayProcess, GatewayProcess], redis: RedisServer
) -> None:
    redis.stop()

    answers = [post(gateways[0], "alone") for _ in range(4)]
    with OpenStream(gateways[0], "alone2"):
        refused = post(gateways[0], "alone2")
    served = until_served(gateways[0], "alone2")

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert all(answer.headers["x-gateway-degraded"] == "ratelimit" for answer in answers)
    assert refused.status_code == 429
    assert served.status_code == 200

    redis.start()
    deadline = time.monotonic() + 10
    while (answer := post(gateways[0], "users")).headers.get("x-gateway-degraded") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert answer.status_code == 200
    assert "x-gateway-degraded" not in answer.headers
