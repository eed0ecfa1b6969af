"""What a plan can include or leave out, and what one tenant may use of it. Pure: the hot path knows it, too."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Feature = Literal[
    "routing",  # virtual models, and requests that name none
    "experiments",  # tests of models against each other, and cost migration
    "replay",  # weekly replays, and the bank of what is replayed
    "judge",  # judging of a sample, and what challengers answer in the shadow
    "content_log",  # prompts and answers beside the request log
    "webhooks",  # alerts by webhook, Slack-compatible ones included
]
FEATURES: Final[tuple[Feature, ...]] = get_args(Feature)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a tenant's plan lets it use. ``plan`` is its name ("": it is on none); ``features`` None stands for all."""

    plan: str = ""
    features: frozenset[str] | None = None

    def allows(self, feature: Feature) -> bool:
        return self.features is None or feature in self.features

    def refusal(self, feature: Feature) -> str:
        """What somebody is told who wants it all the same."""
        return f"The plan '{self.plan}' does not include the feature '{feature}'."


EVERYTHING: Final = Entitlement()
