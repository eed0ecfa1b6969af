"""Prompts and answers are kept for tenants who ask for that, encrypted, and for nobody else."""

import os
import time
from typing import Any

import openai
import psycopg
import pytest

from gateway.content_log import MAX_PART_BYTES, Content
from tenants.crypto import Keyring, content_purpose
from tests.e2e.conftest import KEPT_TOKEN
from tests.e2e.gateway_process import GatewayProcess

PROMPT = "a prompt to be kept"


@pytest.fixture
def keeper(gateway: GatewayProcess) -> Any:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEPT_TOKEN, max_retries=0, timeout=20) as client:
        yield client


def rows(gateway: GatewayProcess, request_id: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(gateway.environment["DATABASE_URL"]) as connection:
        query = "SELECT tenant_id, ciphertext FROM gateway_requestcontent WHERE request_id = %s"
        return connection.execute(query, [request_id]).fetchall()


def kept(gateway: GatewayProcess, request_id: str) -> Content:
    for _ in range(50):
        if found := rows(gateway, request_id):
            ((tenant_id, ciphertext),) = found
            assert PROMPT.encode() not in ciphertext
            keyring = Keyring.parse(os.environ["MASTER_KEYS"], purpose=content_purpose(tenant_id))
            return Content.unseal(keyring, str(tenant_id), request_id, ciphertext)
        time.sleep(0.1)
    raise AssertionError("nothing was kept")


def ask(client: openai.OpenAI, model: str, prompt: str = PROMPT, **more: Any) -> Any:
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.with_raw_response.create(model=model, messages=messages, **more)


def test_prompt_and_whole_answer_are_kept(gateway: GatewayProcess, keeper: openai.OpenAI) -> None:
    answer = ask(keeper, "kept")
    content = kept(gateway, answer.headers["x-request-id"])
    assert PROMPT in content.request
    assert content.answer == answer.text
    assert not content.truncated


def test_the_text_of_a_stream_is_kept(gateway: GatewayProcess, keeper: openai.OpenAI) -> None:
    answer = ask(keeper, "kept", stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer.parse() if chunk.choices)
    assert text
    assert kept(gateway, answer.headers["x-request-id"]).answer == text


def test_what_is_too_long_is_cut_and_says_so(gateway: GatewayProcess, keeper: openai.OpenAI) -> None:
    content = kept(gateway, ask(keeper, "kept", PROMPT + "x" * MAX_PART_BYTES).headers["x-request-id"])
    assert (len(content.request), content.truncated) == (MAX_PART_BYTES, True)


def test_nothing_is_kept_for_others(gateway: GatewayProcess, client: openai.OpenAI, keeper: openai.OpenAI) -> None:
    unkept = ask(client, "openai-tok8").headers["x-request-id"]
    kept(gateway, ask(keeper, "kept").headers["x-request-id"])  # written later, so the other would be there by now
    assert rows(gateway, unkept) == []
