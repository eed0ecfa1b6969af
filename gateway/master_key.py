"""Rotation of the master key that provider keys are encrypted under."""

from dataclasses import dataclass

from django.conf import settings

from audit.record import Actor
from gateway import installation
from gateway.models import ProviderKey
from gateway.rotation import reencrypt
from tenants.crypto import generate_key, parse_numbered_keys


@dataclass(frozen=True, slots=True)
class Rotation:
    """``count`` provider keys were moved under master key ``number``; ``next_step`` is what the operator does now."""

    count: int
    number: int
    next_step: str


def rotate(actor: Actor) -> Rotation:
    """Move every provider key under the current master key.

    Where the installation generated its own secrets, a new master key becomes the current one first; not while
    keys are left under an older one, which means that an earlier rotation was interrupted and is finished now.
    Raises ValueError for MASTER_KEYS that cannot be read, UnreadableKeys for provider keys that cannot.
    """
    number = _current_number()
    active = ProviderKey.objects.filter(status=ProviderKey.Status.ACTIVE)
    interrupted = active.exclude(master_key_number=number).exists()
    generated = installation.is_generated("MASTER_KEYS")
    if generated and not interrupted:
        number = _make_current(number)
    count = reencrypt(actor)
    return Rotation(count, number, _next_step(number, generated, interrupted))


def _current_number() -> int:
    return next(iter(parse_numbered_keys(settings.MASTER_KEYS)))


def _make_current(last: int) -> int:
    """A fresh key in front of the others; those stay, as whatever is not re-encrypted yet needs them."""
    numbers = parse_numbered_keys(settings.MASTER_KEYS)
    number = max(numbers, default=last) + 1
    settings.MASTER_KEYS = f"{number}:{generate_key()},{settings.MASTER_KEYS}"
    installation.replace_secret("MASTER_KEYS", settings.MASTER_KEYS)
    return number


def _next_step(number: int, generated: bool, interrupted: bool) -> str:
    if not generated:
        return (
            "MASTER_KEYS come from your environment: to rotate, put a new key in front there, restart, and run this "
            f"again. Once no backup needs them, the keys behind {number} can go."
        )
    if interrupted:
        return "This finished an earlier rotation; run it again to introduce a new master key."
    return (
        f"Restart running gateways, and back up {installation.secrets_path()}: without it no provider key can be read."
    )
