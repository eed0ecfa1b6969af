"""The router against vendors whose quality is known: it gets near the best single model within 200 judged answers."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from statistics import mean
from typing import Any

import aiohttp
import psycopg
import pytest

from tests import provision
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.graded_vendor import PRICES, QUALITY, QUESTIONS, GradedVendor
from tests.provision import Database

TOKEN = "learn-token-0123456789-abcdefghij"


def declaration(url: str) -> str:
    models = "\n".join(
        f"      - {{name: {name}, provider: lab, vendor_model: {name}, price: {{input: {usd / 4}, output: {usd}}}, "
        f"routed: {str(name != 'judge').lower()}}}"
        for name, usd in PRICES.items()
    )
    return f"""
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers: [{{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}]
    models:
{models}
    tokens: [{{name: all, project: web, value: {TOKEN}, models: ["*"]}}]
    routing:
      strategy: balanced
      judge: {{usd_per_day: "10", rate: 0.1, model: judge, shadow: true}}
"""


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    made = provision.create_database(f"{provision.PREFIX}_learns_{os.getpid()}")
    yield made
    provision.drop_database(made.name)


@pytest.fixture(scope="module")
def vendor() -> Iterator[GradedVendor]:
    with GradedVendor() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    vendor: GradedVendor, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    started = GatewayProcess(database, tmp_path_factory.mktemp("learns"))
    started.apply(declaration(vendor.url))
    with started:
        yield started


async def ask(gateway: GatewayProcess, numbers: range) -> list[dict[str, Any]]:
    """One question per number, 16 at a time; what each answer says of its routing, with the model that answered."""
    tasks, told = list(QUESTIONS), []
    limit = asyncio.Semaphore(16)
    headers = {"authorization": f"Bearer {TOKEN}"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(gateway.url, headers=headers, timeout=timeout) as client:

        async def one(number: int) -> None:
            task = tasks[number % len(tasks)]
            asked = [{"role": "user", "content": QUESTIONS[task].format(number=number)}]
            body = {"model": "auto", "messages": asked}
            async with limit, client.post("/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                meta = (await answer.json())["x-gateway"]
            told.append({"task": task, "model": meta["model"], **meta["routing"]})

        await asyncio.gather(*(one(number) for number in numbers))
    return told


def learn(gateway: GatewayProcess) -> None:
    """What the schedule does every few seconds."""
    time.sleep(1.0)  # decisions and samples are written beside the traffic
    for job in ("judge", "learn"):
        done = gateway.manage(job, check=False)
        assert done.stdout.startswith("done"), done.stdout + done.stderr
    time.sleep(2.5)  # the gateway looks for a newer state every two seconds


def count(database: Database, query: str) -> int:
    with psycopg.connect(database.url) as connection:
        found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])


def utility(model: str, task: str) -> float:
    """Known quality less what the balanced strategy takes for cost: .05 for what the best model costs."""
    return QUALITY[model][task] - 0.05 * PRICES[model] / PRICES["grand"]


def recovered(told: list[dict[str, Any]]) -> float:
    """The share of the distance from the cheapest to the best single model that these choices reach."""
    tasks = [answer["task"] for answer in told]
    singles = {model: mean(utility(model, task) for task in tasks) for model in QUALITY}
    chosen = mean(utility(answer["model"], answer["task"]) for answer in told)
    return (chosen - singles["tiny"]) / (max(singles.values()) - singles["tiny"])


def test_it_comes_near_the_best_single_model_within_200_judged_answers(gateway, database) -> None:
    before = recovered(asyncio.run(ask(gateway, range(200))))
    for start in range(200, 2000, 300):
        learn(gateway)
        asyncio.run(ask(gateway, range(start, start + 300)))
    learn(gateway)
    judged = count(database, "SELECT count(DISTINCT request_id) FROM routing_label WHERE rater = 'judge'")
    after = recovered(asyncio.run(ask(gateway, range(10_000, 10_200))))
    print(f"recovered {before:.2f} before, {after:.2f} after {judged} judged answers")
    assert judged <= 250
    assert after >= 0.9


def test_a_model_that_silently_gets_worse_is_noticed_within_60_judged_answers(gateway, database, vendor) -> None:
    vendor.set_quality("gem", 0.3)
    for start in range(20_000, 20_600, 200):
        asyncio.run(ask(gateway, range(start, start + 200)))
        learn(gateway)
    noticed = "SELECT count(*) FROM audit_jobrun WHERE job = 'learn' AND facts->>'noticed' LIKE '%gem answers worse%'"
    assert count(database, noticed) >= 1
    told = asyncio.run(ask(gateway, range(30_000, 30_100)))
    assert Counter(answer["model"] for answer in told).most_common(1)[0][0] != "gem"
