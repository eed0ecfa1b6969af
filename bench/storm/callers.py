"""Those who call: some streamed, some whole, some who hang up, each request with a number of its own in its prompt."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import aiohttp

from bench.storm.site import MAX_TOKENS, MODELS, TOKENS, Site

AT_A_TIME = 32
HANG_UPS = 0.04
REQUEST_TIMEOUT_S = 90.0
PAUSE_AFTER_REFUSAL_S = 0.1
NO_ANSWER = 0  # the status of a call whose connection broke before its answer began


@dataclass(slots=True)
class Asked:
    """One request as its caller saw it.

    ``hung_up``: the caller left before the end. ``complete``: the answer says that it is all there.
    """

    number: int
    streamed: bool
    model: str
    status: int = NO_ANSWER
    text: str = ""
    hung_up: bool = False
    complete: bool = False

    @property
    def delivered_tokens(self) -> int:
        return len(self.text.split())


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that breaks once so many requests have been sent."""

    after: int
    name: str
    strike: Callable[[], None]


def number_in(body: object) -> int:
    """The number of the request whose prompt a vendor was sent. Raises ValueError for anything else."""
    _, found, rest = json.dumps(body).partition("storm request ")
    digits = rest.split(" ", 1)[0]
    if not found or not digits.isdigit():
        raise ValueError("not a request of the storm's")
    return int(digits)


class Callers:
    """``requests`` calls, :data:`AT_A_TIME` at a time, while the ``blows`` fall.

    While one falls, no more is sent than leaves traffic for the next one to meet.
    """

    def __init__(self, site: Site, requests: int, seed: int, blows: list[Blow], say: Callable[[str], object]) -> None:
        self._site, self._requests, self._blows, self._say = site, requests, blows, say
        self._chance = random.Random(seed + 1)
        self._sent = 0
        self._kept_back = min(2 * AT_A_TIME, requests // (2 * len(blows) + 2))
        self._allowed = self._until_blow(1)
        self._news = asyncio.Condition()
        self.asked: list[Asked] = []

    async def run(self, limit_s: float) -> None:
        """Raises TimeoutError, or what a blow raises."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            asyncio.timeout(limit_s),
            aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._strike())
            for _ in range(AT_A_TIME):
                tasks.create_task(self._call_on(http))

    async def _strike(self) -> None:
        for place, blow in enumerate(self._blows):
            async with self._news:
                await self._news.wait_for(partial(self._has_sent, blow.after))
            self._say(f"{self._sent} sent: {blow.name}")
            await asyncio.to_thread(blow.strike)
            async with self._news:
                self._allowed = self._until_blow(place + 2)
                self._news.notify_all()

    def _has_sent(self, count: int) -> bool:
        return self._sent >= count

    def _until_blow(self, place: int) -> int:
        """How many may be sent before the blow ahead of that one is over."""
        return self._blows[place].after - self._kept_back if place < len(self._blows) else self._requests

    async def _call_on(self, http: aiohttp.ClientSession) -> None:
        while (number := await self._next_number()) is not None:
            asked = Asked(number, self._chance.random() < 0.5, self._chance.choice(MODELS))
            self.asked.append(asked)
            leave_after = self._chance.uniform(0.0, 0.25) if self._chance.random() < HANG_UPS else None
            call = self._call(http, asked)
            await (call if leave_after is None else _leaving(call, asked, leave_after))
            if asked.status in (NO_ANSWER, 503):
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)

    async def _next_number(self) -> int | None:
        async with self._news:
            await self._news.wait_for(
                lambda: self._sent >= self._requests or (self._sent < self._allowed and self._site.open_for_callers)
            )
            if self._sent >= self._requests:
                return None
            self._sent += 1
            self._news.notify_all()
            return self._sent

    async def _call(self, http: aiohttp.ClientSession, asked: Asked) -> None:
        gateway = self._chance.choice(self._site.open_for_callers or self._site.gateways)
        body = {
            "model": asked.model,
            "messages": [{"role": "user", "content": f"This is storm request {asked.number} of many."}],
            "stream": asked.streamed,
            "max_tokens": MAX_TOKENS,
            "user": f"storm-{asked.number}",
        }
        (token,) = self._chance.choices([*TOKENS.values()], [45, 45, 10])
        try:
            async with http.post(
                f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {token}"}
            ) as answer:
                asked.status = answer.status
                if answer.status == 200:
                    await (_read_stream(answer, asked) if asked.streamed else _read_whole(answer, asked))
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            asked.complete = False


async def _leaving(call: Awaitable[None], asked: Asked, after_s: float) -> None:
    """A caller without patience: the connection is closed while the answer is on its way."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait((task,), timeout=after_s)
    if not done:
        asked.hung_up = True
        task.cancel()
        await asyncio.wait((task,))
    elif not task.cancelled():
        task.result()


async def _read_whole(answer: aiohttp.ClientResponse, asked: Asked) -> None:
    body = await answer.json()
    asked.text = body["choices"][0]["message"]["content"]
    asked.complete = True


async def _read_stream(answer: aiohttp.ClientResponse, asked: Asked) -> None:
    async for line in answer.content:
        if line.startswith(b"data: [DONE]"):
            asked.complete = True
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:]).get("choices", ()):
            asked.text += choice["delta"].get("content") or ""
