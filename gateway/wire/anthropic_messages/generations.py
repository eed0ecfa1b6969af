"""What a Claude model accepts, by the version in its name."""

import re
from functools import lru_cache

from msgspec import Struct

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:[-.](\d{1,2}))?(?!\d)")


class Generation(Struct, frozen=True):
    """What one version accepts. The defaults are for a name that carries none (an alias, a look-alike vendor)."""

    adaptive_thinking: bool = False
    thinking_budget: bool = True
    samplers: bool = True
    both_samplers: bool = True  # temperature and top_p in one request
    json_schema: bool = True
    thinks_unasked: bool = False


@lru_cache(maxsize=256)
def generation_of(model: str) -> Generation:
    """The generation of a model by its vendor name; names of other clouds that embed it are understood too."""
    found = _VERSION.search(model)
    if found is None:
        return Generation()
    version = int(found[1]), int(found[2] or 0)
    return Generation(
        adaptive_thinking=version >= (4, 6),
        thinking_budget=version < (4, 7),
        samplers=version < (4, 7),
        both_samplers=version < (4, 1),
        json_schema=version >= (4, 5),
        thinks_unasked=version >= (5, 0),
    )
