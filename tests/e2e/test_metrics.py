"""What a scraper sees, and who may scrape."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests import provision
from tests.e2e.gateway_process import GatewayProcess


def value_of(text: str, name: str, **labels: str) -> float:
    """The sum over all series of ``name`` that carry ``labels``."""
    total = 0.0
    for series in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
        if all(f'{label}="{wanted}"' in (series[1] or "") for label, wanted in labels.items()):
            total += float(series[2])
    return total


def test_requests_attempts_and_tokens_are_counted(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    before = httpx.get(f"{gateway.url}/metrics").text
    client.chat.completions.create(model="openai-tok8", messages=[{"role": "user", "content": "a b c"}])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none-such", messages=[{"role": "user", "content": "a b c"}])
    after = httpx.get(f"{gateway.url}/metrics").text

    def grown(name: str, **labels: str) -> float:
        return value_of(after, name, **labels) - value_of(before, name, **labels)

    assert grown("pointsman_requests_total", status="200", dialect="openai_chat") == 1
    assert grown("pointsman_requests_total", status="404", code="model_not_found") == 1
    assert grown("pointsman_attempts_total", outcome="settled", purpose="serve") == 1
    assert grown("gen_ai_client_token_usage_total", **{"class": "output"}) == 8
    assert grown("gen_ai_server_request_duration_seconds_count", streamed="false") == 2
    assert grown("pointsman_cost_usd_total") > 0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_metrics_{os.getpid()}")
    folder: Path = tmp_path_factory.mktemp("metrics")
    with GatewayProcess(database, folder, METRICS_TOKEN="scraper-0123456789") as running:
        yield running
    provision.drop_database(database.name)


def test_a_token_is_asked_for_where_one_is_set(guarded: GatewayProcess) -> None:
    assert httpx.get(f"{guarded.url}/metrics").status_code == 404
    assert httpx.get(f"{guarded.url}/metrics", headers={"authorization": "Bearer wrong"}).status_code == 404
    scraped = httpx.get(f"{guarded.url}/metrics", headers={"authorization": "Bearer scraper-0123456789"})
    assert scraped.status_code == 200
    assert "pointsman_open_streams" in scraped.text
    assert "pointsman_settlements_waiting 0.0" in scraped.text
