"""In which tier of service a vendor is asked to serve a request, going by what is really sent to it.

A field of the caller's goes on only to a vendor of the same dialect that takes it. What is translated names no tier.
"""

import msgspec

from billing.pricing import Service
from gateway.providers import catalog
from gateway.providers.target import Target
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.types import Request, ServiceTier, service_tier

# Their vendors have a setting for what names no tier, or "auto", that only they know.
_BY_SETTING = frozenset({openai_chat.DIALECT, openai_responses.DIALECT})
_NEVER_PRIORITY = frozenset({"default", "flex"})


def asked_service(request: Request, target: Target, *, reworded: bool = False) -> Service:
    """How ``target`` is asked to serve ``request``; ``reworded``: perhaps not in the caller's own words."""
    dialect = _dialect_of(target, request)
    passed_on = dialect == request.dialect
    if dialect in _BY_SETTING:
        name = _named(request, target, "service_tier") if passed_on else ""
        return Service(service_tier(name), may_be_priority=reworded or name not in _NEVER_PRIORITY)
    if passed_on and dialect == anthropic_messages.DIALECT:
        return _of_messages(request, target)
    return Service(may_be_priority=False)


def _of_messages(request: Request, target: Target) -> Service:
    """Anthropic charges more for speed, and for answers that are made in a region of the caller's choice."""
    if _named(request, target, "inference_geo") not in ("", "global"):
        return Service("other", may_be_priority=False, field="inference_geo")
    speed = _named(request, target, "speed")
    tiers: dict[str, ServiceTier] = {"": "", "standard": "", "fast": "priority"}
    return Service(tiers.get(speed, "other"), may_be_priority=speed == "fast", field="speed")


def _named(request: Request, target: Target, field: str) -> str:
    """What the vendor is told; "" for nothing, and for what is no name, which every vendor refuses."""
    value = request.fields.get(field)
    if value is None or field in target.profile.unsupported:
        return ""
    name = msgspec.json.decode(value)
    return name if isinstance(name, str) else ""


def _dialect_of(target: Target, request: Request) -> str:
    """The one that this vendor is spoken to in, as its endpoint chooses it."""
    vendor = catalog.get(target.kind)
    return request.dialect if request.operation == "chat" and request.dialect in vendor.also else vendor.format
