"""Labelled prompts, and how often the classifier agrees with them."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from routing.classifier import Complexity, PromptFacts, Task, classify


class LabelledPrompt(Struct, frozen=True):
    """``chars`` is the size of the whole prompt where ``text`` is only its beginning; ``turns`` of the conversation."""

    text: str
    language: str
    task: Task
    complexity: Complexity
    half: str = ""
    turns: int = 1
    chars: int | None = None
    images: bool = False
    tools: bool = False
    schema: bool = False

    @property
    def facts(self) -> PromptFacts:
        return PromptFacts.of_text(
            self.text,
            messages=self.turns,
            total_chars=self.chars or len(self.text),
            images=self.images,
            tools=self.tools,
            schema=self.schema,
        )


class Share(Struct, frozen=True):
    """How many prompts there were, and the part of them (0-1) that was told right."""

    prompts: int
    right: float


class Accuracy(Struct, frozen=True):
    prompts: int
    task: float
    complexity: float
    by_task: dict[str, Share]
    by_complexity: dict[str, Share]
    by_language: dict[str, Share]
    by_confidence: dict[str, Share]


def read_sample(path: Path, half: str | None = None) -> list[LabelledPrompt]:
    """One JSON object a line. Raises OSError, and ValueError for a line that is not a labelled prompt or no line."""
    decoder = msgspec.json.Decoder(LabelledPrompt)
    prompts = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(decoder.decode(line))
        except msgspec.DecodeError as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from None
    chosen = [prompt for prompt in prompts if half in (None, prompt.half)]
    if not chosen:
        raise ValueError(f"{path} holds no such prompts.")
    return chosen


def evaluate(prompts: Iterable[LabelledPrompt]) -> Accuracy:
    """Languages and buckets of confidence count the task; ``prompts`` must not be empty."""
    tasks: dict[str, list[bool]] = defaultdict(list)
    complexities: dict[str, list[bool]] = defaultdict(list)
    languages: dict[str, list[bool]] = defaultdict(list)
    buckets: dict[str, list[bool]] = defaultdict(list)
    for prompt in prompts:
        verdict = classify(prompt.facts)
        right = verdict.task == prompt.task
        tasks[prompt.task].append(right)
        languages[prompt.language].append(right)
        buckets[_bucket(verdict.confidence)].append(right)
        complexities[prompt.complexity].append(verdict.complexity == prompt.complexity)
    all_tasks = [right for rights in tasks.values() for right in rights]
    all_complexities = [right for rights in complexities.values() for right in rights]
    return Accuracy(
        prompts=len(all_tasks),
        task=_mean(all_tasks),
        complexity=_mean(all_complexities),
        by_task=_shares(tasks),
        by_complexity=_shares(complexities),
        by_language=_shares(languages),
        by_confidence=_shares(buckets),
    )


def _bucket(confidence: float) -> str:
    lower = min(int(confidence * 10), 9)
    return f"{lower / 10:.1f}-{(lower + 1) / 10:.1f}"


def _shares(rights: dict[str, list[bool]]) -> dict[str, Share]:
    return {name: Share(len(values), _mean(values)) for name, values in sorted(rights.items())}


def _mean(values: list[bool]) -> float:
    return sum(values) / len(values)
