"""The facts about one way to get an answer: a provider, one of its keys, one of its models."""

from dataclasses import dataclass, field
from typing import Literal

from gateway.providers.outbound import Deadlines
from gateway.wire.types import VendorProfile


@dataclass(frozen=True, slots=True)
class Target:
    """What the dispatcher tries and the client calls.

    ``model_name`` is the tenant's name for it, ``vendor_model`` the vendor's. ``price`` belongs to billing
    and is only carried. ``profile`` is the catalogue's, merged with the model's own departures.
    ``on_disconnect`` says what a caller's hang-up does to the vendor's answer: stop it, or read it to the
    end so that its usage is known. ``context_window`` is in tokens. ``weight`` is its share among the deployments
    of one model; 0 is used only when the others fail. ``circuit`` names what fails or recovers together: one key of one
    vendor, and one of its models.
    """

    provider_id: str
    provider_name: str
    kind: str
    base_url: str
    provider_key_id: str | None
    secret: str = field(repr=False)
    model_id: str
    model_name: str
    vendor_model: str
    deadlines: Deadlines = field(default=Deadlines())
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    price: object | None = None
    profile: VendorProfile = field(default=VendorProfile())
    capabilities: frozenset[str] = frozenset()
    context_window: int | None = None
    max_output_tokens: int | None = None
    weight: int = 1
    circuit: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "circuit", f"{self.provider_key_id or self.provider_id}/{self.vendor_model}")
