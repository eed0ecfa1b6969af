"""One answer on its way out: whole or streamed, at its pace, with the faults its behaviour asks for."""

import asyncio
import re
from dataclasses import dataclass
from itertools import cycle

from gateway.conformance.vendors.answers import Answer, Frame, Prompt
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import Format, dump
from gateway.conformance.vendors.http import Connection
from gateway.conformance.vendors.log import LoggedCall

_PING_S = 0.2
_COUNT = re.compile(rb'("(?!max_)\w+_tokens|"\w+TokenCount|"\w*eval_count)":(\d+)')  # as all formats name them
_WRONG_COUNTS = {"negative": rb'\1":-1\2', "text": rb'\1":"about \2"'}


@dataclass(slots=True)
class Delivery:
    """One answer on its way out, with the faults its behaviour asks for."""

    vendor: Format
    prompt: Prompt
    answer: Answer
    behaviour: Behaviour
    call: LoggedCall
    connection: Connection
    headers: dict[str, str]

    async def run(self) -> None:
        self.headers["content-type"] = self.vendor.stream_type if self.prompt.stream else "application/json"
        if self.behaviour.wrong_type:
            self.call.outcome = "failed"
            self.connection.respond(200, {**self.headers, "content-type": "text/html"}, b"<html>Welcome</html>")
        elif self.behaviour.empty:
            self.call.outcome = "failed"
            self.connection.respond(200, self.headers, b"")
        elif self.behaviour.silent == "headers":
            self.connection.begin(200, self.headers)
            await forever()
        elif self.prompt.stream:
            self.connection.begin(200, self.headers)
            await self._stream()
        else:
            await self._whole()

    def _generate(self, output: int, reasoning: int) -> None:
        self.call.count_generated(output, reasoning, self.vendor.reports_reasoning)

    @property
    def _usage_is_told(self) -> bool:
        return self.behaviour.usage in ("normal", "every_chunk")

    def _misreported(self, data: bytes) -> bytes:
        """``data`` with every count of tokens wrong, where the behaviour asks for that."""
        wrong = _WRONG_COUNTS.get(self.behaviour.usage)
        return data if wrong is None else _COUNT.sub(wrong, data)

    # ----------------------------------------------------------------- streamed

    async def _stream(self) -> None:
        behaviour, connection = self.behaviour, self.connection
        if not behaviour.pings:
            await asyncio.sleep(behaviour.first_token_s)
        self.call.count_prompt(self.answer.usage)
        contents = 0
        frames = self.vendor.frames(self.answer, self.prompt, behaviour)
        for number, frame in enumerate(frames, 1):
            if frame.kind == "content":
                if behaviour.pings and contents == 0:
                    await self._ping()
                if await self._breaks_off(contents, number - 1, frame.data):
                    return
                if behaviour.gap_s:
                    await asyncio.sleep(behaviour.gap_s)
                self._generate(frame.output, frame.reasoning)
                contents += 1
            if frame.kind == "end" and behaviour.hold_open_s and self.vendor.end_is_optional:
                break
            data = self.vendor.broken_event if number == behaviour.bad_event else self._misreported(frame.data)
            if behaviour.drip_s:
                await connection.drip(data, behaviour.drip_s)
            else:
                connection.send(data)
            self._count_sent(frame)
            await connection.flush()
        await asyncio.sleep(behaviour.hold_open_s)
        connection.end()
        self.call.outcome = "answered"

    def _count_sent(self, frame: Frame) -> None:
        self.call.count_sent(frame.output + frame.reasoning, frame.carries_usage and self._usage_is_told)

    async def _ping(self) -> None:
        """Signs of life until the first token is due."""
        left_s = self.behaviour.first_token_s
        for ping in cycle(self.vendor.pings(self.answer)):
            await asyncio.sleep(min(_PING_S, left_s))
            if (left_s := left_s - _PING_S) <= 0:
                return
            self.connection.send(ping)
            await self.connection.flush()

    async def _breaks_off(self, contents: int, events: int, next_event: bytes) -> bool:
        """Whether the stream ends before ``next_event``, after ``contents`` chunks of content in ``events`` events."""
        behaviour = self.behaviour
        if contents == behaviour.stall_after:
            await forever()
        if contents == behaviour.error_after:
            self.call.outcome = "failed"
            self.connection.send(self.vendor.error_event(self.answer, events, plain=behaviour.error_plain))
            self.connection.end()
            return True
        if behaviour.cut_after is not None and self.call.sent_tokens >= behaviour.cut_after:
            self.call.outcome = "cut"
            if behaviour.cut_by == "rst":
                await self.connection.cut_with_reset()
            else:
                self.connection.cut_inside(next_event, kept=16)
            return True
        return False

    # ----------------------------------------------------------------- whole

    async def _whole(self) -> None:
        behaviour, connection = self.behaviour, self.connection
        await asyncio.sleep(behaviour.first_token_s)
        usage = self.answer.usage
        self.call.count_prompt(usage)
        if behaviour.gap_s:
            await self._generate_slowly(usage.output, usage.reasoning)
        else:
            self._generate(usage.output, usage.reasoning)
        body = self._body()
        if behaviour.stall_after is not None or behaviour.cut_after is not None:
            await self._break_off_inside(body)
            return
        if behaviour.drip_s:
            connection.begin(200, self.headers, len(body))
            await connection.drip(body, behaviour.drip_s)
        else:
            connection.respond(200, self.headers, body)
        failed = behaviour.error_after is not None or behaviour.bad_event is not None
        if not failed:
            self.call.count_sent(self.call.generated_tokens, self._usage_is_told)
        self.call.outcome = "failed" if failed else "answered"
        await connection.flush()

    async def _generate_slowly(self, output: int, reasoning: int) -> None:
        for i in range(reasoning + output):
            await asyncio.sleep(self.behaviour.gap_s)
            self._generate(int(i >= reasoning), int(i < reasoning))

    def _body(self) -> bytes:
        behaviour = self.behaviour
        if behaviour.error_after is not None:
            return dump(self.vendor.failed(self.answer, self.prompt))
        value = self.vendor.whole(self.answer, self.prompt)
        body = self._misreported(dump(self.vendor.without_usage(value) if behaviour.usage == "none" else value))
        return body[: len(body) // 2] if behaviour.bad_event is not None else body

    async def _break_off_inside(self, body: bytes) -> None:
        behaviour, connection = self.behaviour, self.connection
        connection.begin(200, self.headers, len(body))
        if behaviour.cut_after is not None and behaviour.cut_by == "fin":
            self.call.outcome = "cut"
            connection.cut_inside(body, kept=len(body) // 2)
            return
        connection.send(body[: len(body) // 2])
        await connection.flush()
        if behaviour.cut_after is None:
            await forever()
        self.call.outcome = "cut"
        await connection.cut_with_reset()


async def forever() -> None:
    """Ends only when the client leaves: its task is cancelled then."""
    await asyncio.get_running_loop().create_future()
