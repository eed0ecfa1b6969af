"""Runs of text that are recognised by their bytes say what decoding every event would say."""

import json
import random
from typing import Any

import pytest

from gateway.errors import ProviderError
from gateway.wire.openai_chat import text_runs
from gateway.wire.openai_chat.text_runs import TextRuns
from gateway.wire.openai_chat.vendor_streams import ChatStreamParser
from gateway.wire.types import Chunk

TEXTS = (
    "word", " two words", 'she said "so"', "a\\b", "\\", '"', "line\nbreak", "ü€😀", "\x00", '"},"finish_reason":null',
    '{"content":"x"}', "data: {", "", "\u2028", "</script>", "stop", "0",
)  # fmt: skip
DONE = b"data: [DONE]\n\n"


def event(
    delta: dict[str, Any], finish: str | None = None, *, dense: bool = True, raw: bool = False, **more: Any
) -> bytes:
    said = {"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    separators = (",", ":") if dense else None
    return b"data: " + json.dumps(said, ensure_ascii=not raw, separators=separators).encode() + b"\n\n"


def text(content: str, **more: Any) -> bytes:
    return event({"content": content}, **more)


def parsed(
    blocks: list[bytes], monkeypatch: pytest.MonkeyPatch, *, by_bytes: bool
) -> tuple[list[Chunk], ChatStreamParser]:
    monkeypatch.setattr(text_runs, "_MOST_LESSONS", 3 if by_bytes else 0)
    parser = ChatStreamParser(True)
    chunks: list[Chunk] = []
    for block in blocks:
        try:
            chunks += parser.parse_chunk(block)
        except ProviderError as error:
            chunks.append(Chunk(text=f"failed: {error}"))
            break
    return chunks, parser


def told(chunks: list[Chunk]) -> dict[str, Any]:
    """All that is known of an answer, however it was cut into chunks."""
    return {
        "text": "".join(chunk.text for chunk in chunks),
        "thinking": "".join(chunk.thinking for chunk in chunks),
        "tool_calls": [call for chunk in chunks for call in chunk.tool_calls],
        "wire": b"".join(chunk.wire or b"" for chunk in chunks),
        "chars": sum(chunk.output_chars for chunk in chunks),
        "pieces": sum(chunk.output_pieces or chunk.output_chars > 0 for chunk in chunks),
        "finish": [chunk.finish_reason for chunk in chunks if chunk.final],
        "usage": [chunk.usage for chunk in chunks if chunk.usage],
        "identity": [(chunk.id, chunk.model) for chunk in chunks if chunk.id],
    }


def a_stream(rng: random.Random) -> list[bytes]:
    style = {"dense": rng.random() < 0.5, "raw": rng.random() < 0.5}
    padded = rng.random() < 0.2
    events = [event({"role": "assistant", "content": ""}, **style)]
    for _ in range(rng.randrange(1, 40)):
        more = {"obfuscation": "x" * rng.randrange(9)} if padded else {}
        kind = rng.random()
        if kind < 0.9:
            events.append(text(rng.choice(TEXTS), **style, **more))
        elif kind < 0.93:
            events.append(event({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}]}))
        elif kind < 0.95:
            events.append(event({"reasoning_content": "hm"}, **style))
        elif kind < 0.97:
            events.append(b": ping\n\n")
        elif kind < 0.98:
            events.append(event({"content": "other"}, index=1))
        else:
            events.append(b"data: {broken\n\n" if rng.random() < 0.5 else event({}, error={"message": "no"}))
    events += [
        event({}, "stop", **style),
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n',
        DONE,
    ]
    whole = b"".join(events)
    cuts = sorted(rng.randrange(len(whole)) for _ in range(rng.randrange(6)))
    return [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if end > begin]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_decoding_every_event_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        blocks = a_stream(random.Random(f"{seed}/{number}"))
        fast, fast_parser = parsed(blocks, monkeypatch, by_bytes=True)
        slow, slow_parser = parsed(blocks, monkeypatch, by_bytes=False)
        assert told(fast) == told(slow), blocks
        if slow_parser._failure is not None:
            continue  # what stands behind an error in its block nobody needs to have read
        assert (fast_parser.complete, fast_parser.skipped) == (slow_parser.complete, slow_parser.skipped)


def test_one_block_is_one_chunk_of_text_and_one_that_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    block = b"".join([event({"role": "assistant", "content": ""}), *map(text, "abcdefgh"), event({}, "stop"), DONE])
    chunks, parser = parsed([block], monkeypatch, by_bytes=True)
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("abcdefgh", None), ("", "stop")]
    assert parser.complete


def learned(content: str = "one", **style: Any) -> TextRuns:
    runs = TextRuns()
    runs.learn(text(content, **style).removeprefix(b"data: ").removesuffix(b"\n\n"), content)
    return runs


def test_a_run_is_found_between_other_events() -> None:
    run = text("a") + text('b"') + text("c")
    before, after = event({"role": "assistant"}), event({}, "stop")
    assert learned().find(before + run + after) == (len(before), len(before + run), ["a", 'b"', "c"])


@pytest.mark.parametrize("content", ["stop", "c-1", "0", "content"])
def test_a_text_that_stands_elsewhere_too_teaches_only_what_is_certain(content: str) -> None:
    runs = learned(content, finish="stop" if content == "stop" else None)
    assert runs.find(text("a") + text("b")) in (None, (0, len(text("a") + text("b")), ["a", "b"]))


@pytest.mark.parametrize(
    "between",
    [
        event({"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}),
        event({"content": "x"}, "length"),
        event({"content": "x"}, error={"message": "no"}),
        b"data: {broken\n\n",
        b": ping\n\n",
        b"\n\n",
        text(""),
        text("x").replace(b'"x"', b'"\\"'),
        text("x").replace(b'"x"', b'"\xff"'),
        text("x").replace(b'"x"', b'"x","y"'),
    ],
)
def test_a_run_with_anything_else_in_it_is_none(between: bytes) -> None:
    assert learned().find(text("a") + between + text("b")) is None


def test_three_events_that_teach_nothing_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = TextRuns()
    for _ in range(3):
        assert runs.curious
        runs.learn(b'{"said":"a"}', "a")
    assert not runs.curious
    assert not runs.known
    assert runs.find(text("a")) is None
