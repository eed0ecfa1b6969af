import pytest

from audit.models import AuditEvent
from audit.record import Actor
from gateway.models import Provider, ProviderKey
from gateway.rotation import UnreadableKeys, reencrypt
from tenants.crypto import generate_key
from tenants.models import Tenant


@pytest.fixture
def keys(tenant: Tenant, actor: Actor) -> list[ProviderKey]:
    """Five keys, one of them the installation's, under master key 1."""
    owners = [tenant, tenant, tenant, tenant, None]
    providers = [Provider.objects.create(tenant=owner, name=f"p{i}", kind="openai") for i, owner in enumerate(owners)]
    return [provider.set_key(f"sk-{provider.name}", actor) for provider in providers]


@pytest.fixture
def second_master_key(keys: list[ProviderKey], settings) -> None:
    settings.MASTER_KEYS = f"2:{generate_key()},{settings.MASTER_KEYS}"


def test_every_key_is_moved_under_the_current_master_key(
    keys: list[ProviderKey], second_master_key: None, actor: Actor, settings
) -> None:
    assert reencrypt(actor, batch=2) == 5

    settings.MASTER_KEYS = settings.MASTER_KEYS.split(",")[0]  # the old one is needed no more
    assert [key.reveal() for key in ProviderKey.objects.order_by("pk")] == [f"sk-p{i}" for i in range(5)]


def test_a_second_run_finds_nothing_to_do(keys: list[ProviderKey], second_master_key: None, actor: Actor) -> None:
    reencrypt(actor)
    events = AuditEvent.objects.count()
    assert reencrypt(actor) == 0
    assert AuditEvent.objects.count() == events


def test_each_batch_is_in_the_installations_audit_trail(
    keys: list[ProviderKey], second_master_key: None, actor: Actor
) -> None:
    reencrypt(actor, batch=2)
    events = AuditEvent.objects.filter(tenant=None, action="master_key.rotated").order_by("sequence")
    assert [event.changes for event in events] == [{"provider_keys": n, "master_key": 2} for n in (2, 2, 1)]


def test_an_unreadable_key_is_named_and_stops_no_other(
    keys: list[ProviderKey], second_master_key: None, actor: Actor
) -> None:
    damaged = bytes(keys[0].ciphertext)[:-1] + b"?"
    ProviderKey.objects.filter(pk=keys[0].pk).update(ciphertext=damaged)

    with pytest.raises(UnreadableKeys) as failure:
        reencrypt(actor, batch=2)

    assert (failure.value.key_ids, failure.value.count) == ([str(keys[0].pk)], 4)
    assert ProviderKey.objects.filter(master_key_number=2).count() == 4


def test_revoked_keys_hold_nothing_to_move(keys: list[ProviderKey], second_master_key: None, actor: Actor) -> None:
    keys[0].revoke(actor)
    assert reencrypt(actor) == 4
