"""Moving averages and what is known of lengths and latencies, as bytes to keep (the posterior has its own)."""

from typing import TypeVar

import msgspec
from msgspec import Struct

from routing.ema import EmaSettings, MovingAverages
from routing.engine import UnreadableState
from routing.scores import Experience

_T = TypeVar("_T")


class _Experience(Struct, array_like=True):
    output_tokens: list[tuple[str, str, float, int]]
    log_latency: dict[str, float]


class _Averages(Struct, array_like=True):
    settings: EmaSettings
    experience: _Experience
    cells: list[tuple[str, str, str, float, int, int]]
    labels: int


def experience_to_bytes(experience: Experience) -> bytes:
    return msgspec.msgpack.encode(_stored(experience))


def experience_from_bytes(state: bytes) -> Experience:
    """Raises UnreadableState."""
    return _restored(_decoded(state, _Experience))


def averages_to_bytes(averages: MovingAverages) -> bytes:
    cells = [(*cell, known.value, known.samples, known.last) for cell, known in averages.cells.items()]
    return msgspec.msgpack.encode(_Averages(averages.settings, _stored(averages.experience), cells, averages.labels))


def averages_from_bytes(state: bytes, settings: EmaSettings) -> MovingAverages:
    """What was averaged, to go on with by ``settings``. Raises UnreadableState."""
    stored = _decoded(state, _Averages)
    averages = MovingAverages(settings, _restored(stored.experience), labels=stored.labels)
    for task, complexity, model, value, samples, last in stored.cells:
        averages.remember((task, complexity, model), value, samples, last)
    return averages


def _stored(experience: Experience) -> _Experience:
    lengths = [(model, task, *known) for (model, task), known in experience.output_tokens.items()]
    return _Experience(lengths, experience.log_latency)


def _restored(stored: _Experience) -> Experience:
    lengths = {(model, task): (average, seen) for model, task, average, seen in stored.output_tokens}
    return Experience(lengths, stored.log_latency)


def _decoded(state: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(state, type=kind)
    except msgspec.DecodeError as exc:
        raise UnreadableState(f"this is no state of a router: {exc}") from None
