"""What a key is told of its own spend, right after it was spent."""

import time
from decimal import Decimal
from typing import Any

import httpx
import openai

from tests.e2e.conftest import TOKEN
from tests.e2e.gateway_process import GatewayProcess


def usage(gateway: GatewayProcess) -> dict[str, Any]:
    answer = httpx.get(f"{gateway.url}/v1/usage", headers={"x-api-key": TOKEN})
    assert answer.status_code == 200
    return answer.json()


def test_a_request_is_in_the_keys_usage_at_once(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    before = usage(gateway)["this_month"]
    client.chat.completions.create(model="openai-tok8", messages=[{"role": "user", "content": "one two three"}])
    deadline = time.monotonic() + 10
    while (after := usage(gateway)["this_month"])["requests"] == before["requests"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert after["requests"] == before["requests"] + 1
    assert after["tokens"] > before["tokens"]
    assert Decimal(after["spend_usd"]) > Decimal(before["spend_usd"])
