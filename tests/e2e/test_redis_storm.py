"""Promise P4 by its figure: Redis is lost and comes back under 2,000 chats, and none of them fails."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision, redis_server
from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.test_redis_loss import DECLARATION, TOKEN, bring_back, take_away, until_well, used
from tests.redis_server import RedisServer

CHATS, CALLERS = 500, 8  # for each way of losing it
LOST_AFTER, BACK_AFTER = 100, 400
WAYS = ("stopped", "hung", "flushed", "full")


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def accelerator() -> Iterator[RedisServer]:
    with redis_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    vendors: VendorServer, accelerator: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    database = provision.create_database(f"{provision.PREFIX}_redis_storm_{os.getpid()}")
    running = GatewayProcess(
        database,
        tmp_path_factory.mktemp("redis-storm"),
        REDIS_URL=f"unix://{accelerator.socket_path}",
        IP_RATE_LIMIT="100000",
    )
    tokens = "\n".join(
        f'      - {{name: {how}, project: web, value: storm-{how}-{TOKEN}, models: ["*"], requests_per_minute: 100000}}'
        for how in WAYS
    )
    budgets = "      - {name: all, scope: tenant, limit: {usd: 1000}, period: total}"
    running.apply(DECLARATION.format(url=vendors.url, token=TOKEN, capped=tokens, budgets=budgets))
    with running:
        yield running
    provision.drop_database(database.name)


async def chats_through(gateway: GatewayProcess, accelerator: RedisServer, how: str) -> list[tuple[int, bool]]:
    """Status and completeness of :data:`CHATS` answers, every other one a stream, while Redis goes and comes back."""
    answers: list[tuple[int, bool]] = []
    numbers = iter(range(CHATS))
    progress = asyncio.Condition()
    headers = {"authorization": f"Bearer storm-{how}-{TOKEN}"}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, headers=headers) as http:

        async def call_on() -> None:
            for number in numbers:
                streamed = number % 2 == 1
                body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": streamed}
                answer = await http.post("/v1/chat/completions", json=body)
                end = "data: [DONE]" if streamed else '"finish_reason"'
                async with progress:
                    answers.append((answer.status_code, end in answer.text))
                    progress.notify_all()

        async def lose_and_regain() -> None:
            async with progress:
                await progress.wait_for(lambda: len(answers) >= LOST_AFTER)
            await asyncio.to_thread(take_away, accelerator, how)
            try:
                async with progress:
                    await progress.wait_for(lambda: len(answers) >= BACK_AFTER)
            finally:
                await asyncio.to_thread(bring_back, accelerator, how)

        await asyncio.gather(lose_and_regain(), *(call_on() for _ in range(CALLERS)))
    return answers


@pytest.mark.parametrize("how", WAYS)
def test_none_of_500_chats_fails_while_redis_goes_and_comes_back(
    how: str, gateway: GatewayProcess, accelerator: RedisServer
) -> None:
    answers = asyncio.run(chats_through(gateway, accelerator, how))
    assert Counter(answers) == {(200, True): CHATS}
    assert used(gateway, how) == (CHATS, CHATS)
    until_well(gateway)
