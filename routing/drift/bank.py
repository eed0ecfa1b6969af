"""Which conversations are kept to be asked again every week."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from math import ceil

Stratum = tuple[str, str, int]

SCORE_EDGES = (0.25, 0.5, 0.75, 0.9)  # between the ranges of scores
REPLACED_SHARE = 1 / 30  # of the bank with every choice: a conversation is asked for some months


@dataclass(frozen=True, slots=True)
class Entry:
    """A judged conversation. ``score`` (0-1) only decides which range it stands for; it is never compared with later
    ones, as whatever was drawn for its score regresses to the mean. ``at``: judged, or for a banked one, banked."""

    id: str
    task: str
    complexity: str
    score: float
    at: datetime

    @property
    def stratum(self) -> Stratum:
        return self.task, self.complexity, sum(self.score >= edge for edge in SCORE_EDGES)


@dataclass(frozen=True, slots=True)
class Choice:
    """Ids to take into the bank and to retire from it."""

    add: tuple[str, ...]
    retire: tuple[str, ...]


def choose_bank(
    entries: Sequence[Entry], size: int, *, banked: Sequence[Entry] = (), replaced_share: float = REPLACED_SHARE
) -> Choice:
    """Fill a bank of one model's conversations up to ``size``, and replace its oldest, ``replaced_share`` at a time.

    Every kind of conversation (task, complexity, range of scores) among ``entries`` gets places by the square root of
    how frequent it is: the usual ones most, rare ones some. Within a kind a hash of the id decides, so that the same
    facts give the same choice. Raises ValueError for a negative size.
    """
    if size < 0:
        raise ValueError("a bank holds no fewer than 0 conversations")
    taken = {entry.id for entry in banked}
    fresh = [entry for entry in entries if entry.id not in taken]
    oldest_first = sorted(banked, key=lambda entry: (entry.at, entry.id))
    too_many = max(0, len(banked) - size)
    missing = max(0, size - len(banked))
    replaced = min(ceil(replaced_share * size), max(0, len(fresh) - missing), len(banked) - too_many)
    retired = oldest_first[: too_many + replaced]
    kept = oldest_first[len(retired) :]
    added = _fill(fresh, _places(entries, size), Counter(entry.stratum for entry in kept), size - len(kept))
    return Choice(tuple(entry.id for entry in added), tuple(entry.id for entry in retired))


def _places(entries: Iterable[Entry], size: int) -> dict[Stratum, float]:
    """The share of the bank that each kind is due, in places."""
    roots = {stratum: count**0.5 for stratum, count in Counter(entry.stratum for entry in entries).items()}
    return {stratum: size * root / sum(roots.values()) for stratum, root in roots.items()}


def _fill(fresh: Iterable[Entry], places: dict[Stratum, float], have: Counter[Stratum], count: int) -> list[Entry]:
    """``count`` entries, one after another from the kind that lacks most."""
    waiting: defaultdict[Stratum, list[Entry]] = defaultdict(list)
    for entry in sorted(fresh, key=lambda entry: _hash(entry.id), reverse=True):
        waiting[entry.stratum].append(entry)
    chosen: list[Entry] = []
    while len(chosen) < count and waiting:
        stratum = max(waiting, key=lambda one: (places[one] - have[one], one))
        chosen.append(waiting[stratum].pop())
        have[stratum] += 1
        if not waiting[stratum]:
            del waiting[stratum]
    return chosen


def _hash(entry_id: str) -> bytes:
    return blake2b(entry_id.encode(), digest_size=16).digest()
