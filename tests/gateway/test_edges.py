"""How the edges present errors, whatever they are about."""

from typing import Any

import pytest
from django.test import RequestFactory

from gateway import v1
from gateway.consumers import FORWARDED
from gateway.errors import RateLimitExceeded

CHAT = FORWARDED["v1/chat/completions"]


async def nothing_comes() -> dict[str, Any]:
    raise AssertionError("nothing is read")


async def headers_of_refusal(error: RateLimitExceeded) -> dict[bytes, bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await CHAT({"type": "http", "headers": []}, nothing_comes, send)._refuse(error, [])
    return dict(sent[0]["headers"])


@pytest.mark.parametrize(("wait_s", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (29.0, 29), (29.3, 30), (29.999, 30)])
async def test_nobody_is_told_to_come_back_too_soon(wait_s: float, told: int) -> None:
    error = RateLimitExceeded("Too many requests.", retry_after_s=wait_s)
    assert (await headers_of_refusal(error))[b"retry-after"] == str(told).encode()
    assert v1.render(RequestFactory().get("/v1/usage"), error)["retry-after"] == str(told)
