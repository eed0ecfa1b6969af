"""``manage.py rotate_master_key``: move every provider key under the current master key."""

from typing import Any

from django.core.management.base import CommandError

from gateway.management.operator_command import OperatorCommand
from gateway.master_key import rotate
from tenants.crypto import DecryptionFailed


class Command(OperatorCommand):
    help = (
        "Re-encrypt every provider key under the current master key. Where this installation generated its own "
        "secrets, a new master key is made first. An interrupted run is taken up by the next."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            rotation = rotate(self.actor)
        except ValueError as exc:
            raise CommandError(f"MASTER_KEYS: {exc}.") from None
        except DecryptionFailed as exc:
            raise CommandError(str(exc)) from None
        self.stdout.write(f"{rotation.count} provider keys re-encrypted under master key {rotation.number}.")
        self.tell(rotation.next_step)
