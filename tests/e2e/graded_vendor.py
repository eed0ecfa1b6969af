"""A vendor whose quality is known: its models answer right or wrong by rule, and one of them judges.

Run as ``python -m tests.e2e.graded_vendor PORT``. It speaks OpenAI's chat format. A question carries ``#<number>``; a
model's answer holds ``RIGHT#<number>`` with its quality for the question's task as probability, decided by a hash of
model and number, so that it is the same whenever it is asked. The model ``judge`` reads the question it is given, finds
the marks in it, in order, and gives 5s or 1s for each with some noise, as the gateway asks for it.

    POST /control  {"model": "good", "quality": 0.3}  for all tasks from now on
"""

import hashlib
import json
import random
import re
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

import httpx
from aiohttp import web

# Probability of a right answer by task.
QUALITY: dict[str, dict[str, float]] = {  # what is dear is not what is good, so prices teach nothing
    "tiny": {"coding": 0.30, "qa": 0.55, "general": 0.45, "math": 0.20, "summarization": 0.60},
    "gem": {"coding": 0.85, "qa": 0.88, "general": 0.85, "math": 0.80, "summarization": 0.86},
    "middle": {"coding": 0.55, "qa": 0.60, "general": 0.55, "math": 0.45, "summarization": 0.60},
    "vain": {"coding": 0.50, "qa": 0.65, "general": 0.55, "math": 0.40, "summarization": 0.65},
    "grand": {"coding": 0.72, "qa": 0.74, "general": 0.72, "math": 0.70, "summarization": 0.74},
}
PRICES = {"tiny": 0.1, "gem": 0.4, "middle": 1.5, "vain": 3.0, "grand": 15.0, "judge": 0.5}
QUESTIONS: dict[str, str] = {
    "coding": "Write a Python function that sorts a list of dictionaries by a key. #{number}",
    "qa": "What is the capital city of the country with the code {number}, and when was it founded? #{number}",
    "math": "Solve the equation 3x + {number} = 7x - 12 and show each step of the calculation. #{number}",
    "summarization": "Summarize the following text in two sentences: the {number} ships left the harbour. #{number}",
}
ANSWER_TOKENS = 60
_MARK = re.compile(r"(RIGHT|WRONG)#\d+")
_NUMBER = re.compile(r"#(\d+)")


def is_right(model: str, task: str, number: int, quality: float) -> bool:
    """Whether the model's answer to this question is right: always the same for the same quality."""
    digest = hashlib.blake2b(f"{model}/{task}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 < quality


def task_of(text: str) -> str:
    for task, question in QUESTIONS.items():
        if question.split(" ", maxsplit=2)[0] in text:
            return task
    return "general"


class Vendor:
    def __init__(self) -> None:
        self._override: dict[str, float] = {}
        self._noise = random.Random(7)

    async def control(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self._override[asked["model"]] = asked["quality"]
        return web.json_response({})

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = "\n".join(str(message["content"]) for message in body["messages"])
        answer = self._judged(text) if body["model"] == "judge" else self._answered(body["model"], text)
        usage = {"prompt_tokens": max(1, len(text) // 4), "completion_tokens": ANSWER_TOKENS}
        usage["total_tokens"] = sum(usage.values())
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        told: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time())}
        return web.json_response(told | {"model": body["model"], "choices": [choice], "usage": usage})

    def _answered(self, model: str, text: str) -> str:
        found = _NUMBER.search(text)
        number, task = int(found.group(1)) if found else 0, task_of(text)
        quality = self._override.get(model, QUALITY[model].get(task, 0.5))
        mark = "RIGHT" if is_right(model, task, number, quality) else "WRONG"
        return f"{mark}#{number}: here is what you asked for, step by step, with an explanation."

    def _judged(self, text: str) -> str:
        scores = [self._scored(mark == "RIGHT") for mark in _MARK.findall(text)]
        if len(scores) == 1:
            return json.dumps(scores[0])
        return json.dumps({"first": scores[0], "second": scores[1]})

    def _scored(self, right: bool) -> dict[str, int]:
        """Mostly 5 or 1; one aspect in five is a point off."""
        off = [int(self._noise.random() < 0.2) for _ in range(3)]
        marks = [5 - one if right else 1 + one for one in off]
        return dict(zip(("correctness", "instructions", "clarity"), marks, strict=True))


class GradedVendor:
    """The vendor in a process of its own, for as long as the block lasts."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set_quality(self, model: str, quality: float) -> None:
        httpx.post(f"{self.url}/control", json={"model": model, "quality": quality}).raise_for_status()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-m", "tests.e2e.graded_vendor", str(self.port)])
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return self
        raise TimeoutError("the graded vendor does not start")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


def main() -> None:
    vendor = Vendor()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", vendor.chat)
    app.router.add_post("/control", vendor.control)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
