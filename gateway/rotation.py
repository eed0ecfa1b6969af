"""Moves providers' keys and alert channels' secrets under the current master key while the gateway serves."""

from django.db import transaction
from django.db.models import QuerySet

from audit.actions import Action
from audit.record import Actor, record
from billing.models.alerts import AlertChannel, channel_keyring
from gateway.models import ProviderKey, vendor_keyring
from tenants.crypto import DecryptionFailed


class UnreadableKeys(DecryptionFailed):
    """Some keys could not be decrypted and stay as they are: ``key_ids`` says which, ``count`` how many others
    are done."""

    def __init__(self, key_ids: list[str], count: int) -> None:
        super().__init__(f"{len(key_ids)} secrets cannot be decrypted: {', '.join(key_ids)}")
        self.key_ids = key_ids
        self.count = count


def reencrypt(actor: Actor, batch: int = 100) -> int:
    """Encrypt every active provider key and alert channel's secret that is under an older master key anew; returns
    how many.

    Each ``batch`` rows are one transaction with one audit event, so what breaks off is taken up by the next
    call. Every serving process must know the current master key by then, or it can no longer read the keys.
    Revoked keys hold no secret any more. Raises UnreadableKeys, after all others are done.
    """
    count, unreadable = _reencrypt_channels(actor)
    pending = _outdated()
    while True:
        seen, done, failed = _reencrypt_batch(actor, pending[:batch])
        if not seen:
            break
        count += done
        unreadable += failed
        pending = _outdated().filter(pk__gt=seen[-1].pk)
    if unreadable:
        raise UnreadableKeys(unreadable, count)
    return count


@transaction.atomic
def _reencrypt_channels(actor: Actor) -> tuple[int, list[str]]:
    """Returns how many are done, and the ids of those that are unreadable. There are few of them."""
    keyring = channel_keyring()
    done: list[AlertChannel] = []
    unreadable: list[str] = []
    outdated = AlertChannel.objects.exclude(secret_ciphertext=b"").exclude(master_key_number=keyring.current_id)
    for channel in outdated.select_for_update(of=("self",)):
        try:
            channel.set_secret(channel.reveal_secret())
        except DecryptionFailed:
            unreadable.append(str(channel.pk))
        else:
            done.append(channel)
    if done:
        AlertChannel.objects.bulk_update(done, ("secret_ciphertext", "master_key_number"))
        changes = {"alert_channels": len(done), "master_key": keyring.current_id}
        record(actor, Action.MASTER_KEY_ROTATED, None, tenant=None, changes=changes)
    return len(done), unreadable


def _outdated() -> QuerySet[ProviderKey]:
    active = ProviderKey.objects.filter(status=ProviderKey.Status.ACTIVE)
    return active.exclude(master_key_number=vendor_keyring().current_id).order_by("pk")


@transaction.atomic
def _reencrypt_batch(actor: Actor, pending: QuerySet[ProviderKey]) -> tuple[list[ProviderKey], int, list[str]]:
    """Returns the keys looked at, how many of them are done, and the ids of those that are unreadable."""
    keyring = vendor_keyring()
    keys = list(pending.select_for_update(of=("self",)).select_related("provider"))
    done: list[ProviderKey] = []
    unreadable: list[str] = []
    for key in keys:
        try:
            secret = key.reveal()
        except DecryptionFailed:
            unreadable.append(str(key.pk))
            continue
        key.ciphertext = keyring.encrypt(secret.encode(), key.bound_to())
        key.master_key_number = keyring.current_id
        done.append(key)
    if done:
        ProviderKey.objects.bulk_update(done, ("ciphertext", "master_key_number"))
        changes = {"provider_keys": len(done), "master_key": keyring.current_id}
        record(actor, Action.MASTER_KEY_ROTATED, None, tenant=None, changes=changes)
    return keys, len(done), unreadable
