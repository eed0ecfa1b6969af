import base64
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.crypto import (
    VENDOR_KEY,
    DecryptionFailed,
    Keyring,
    UnknownKey,
    aad,
    generate_key,
    parse_numbered_keys,
)

OLD, NEW = b"o" * 32, b"n" * 32
RING = Keyring({2: NEW, 1: OLD}, purpose=VENDOR_KEY)
OLD_RING = Keyring({1: OLD}, purpose=VENDOR_KEY)
PLACE = aad(uuid4(), uuid4(), "https://vendor.example/v1")


@given(plaintext=st.binary(max_size=200), place=st.binary(max_size=50))
def test_decrypts_what_it_encrypted(plaintext: bytes, place: bytes) -> None:
    assert RING.decrypt(RING.encrypt(plaintext, place), place) == plaintext


def test_the_same_secret_never_encrypts_alike() -> None:
    blobs = {RING.encrypt(b"sk-test", PLACE) for _ in range(100)}

    assert len({blob[5:17] for blob in blobs}) == 100
    assert all(b"sk-test" not in blob for blob in blobs)


def test_a_ciphertext_names_its_layout_and_key() -> None:
    blob = RING.encrypt(b"sk-test", PLACE)

    assert blob[:5] == b"\x01\x00\x00\x00\x02"
    assert len(blob) == 1 + 4 + 12 + len(b"sk-test") + 16


@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    blob = bytearray(RING.encrypt(b"sk-test", PLACE))
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    blob[bit // 8] ^= 1 << bit % 8

    with pytest.raises(DecryptionFailed):
        RING.decrypt(bytes(blob), PLACE)


@pytest.mark.parametrize("length", [0, 1, 5, 17, 32])
def test_a_cut_ciphertext_is_refused(length: int) -> None:
    with pytest.raises(DecryptionFailed):
        RING.decrypt(RING.encrypt(b"", PLACE)[:length], PLACE)


def test_a_ciphertext_moved_to_another_row_tenant_or_address_is_refused() -> None:
    tenant, row, url = uuid4(), uuid4(), "https://vendor.example/v1"
    blob = RING.encrypt(b"sk-test", aad(tenant, row, url))

    assert RING.decrypt(blob, aad(tenant, row, url)) == b"sk-test"
    for elsewhere in (aad(uuid4(), row, url), aad(None, row, url), aad(tenant, uuid4(), url), aad(tenant, row, "x")):
        with pytest.raises(DecryptionFailed):
            RING.decrypt(blob, elsewhere)


def test_a_ciphertext_of_one_purpose_is_unreadable_for_another() -> None:
    other = Keyring({2: NEW}, purpose="request-content")

    with pytest.raises(DecryptionFailed):
        other.decrypt(RING.encrypt(b"sk-test", PLACE), PLACE)


def test_rotation_reads_the_old_key_and_writes_the_new_one() -> None:
    blob = OLD_RING.encrypt(b"sk-test", PLACE)
    assert RING.needs_rotation(blob)

    rotated = RING.encrypt(RING.decrypt(blob, PLACE), PLACE)

    assert not RING.needs_rotation(rotated)
    assert RING.decrypt(rotated, PLACE) == b"sk-test"


def test_an_unknown_key_is_told_apart_and_is_still_a_failure_to_decrypt() -> None:
    with pytest.raises(UnknownKey, match="master key 2") as refusal:
        OLD_RING.decrypt(RING.encrypt(b"sk-test", PLACE), PLACE)

    assert refusal.value.key_id == 2
    assert isinstance(refusal.value, DecryptionFailed)


def test_a_failure_tells_nothing_and_hides_its_cause() -> None:
    with pytest.raises(DecryptionFailed) as refusal:
        RING.decrypt(RING.encrypt(b"sk-test", PLACE), b"elsewhere")

    assert str(refusal.value) == "the secret cannot be decrypted"
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_a_foreign_layout_is_refused() -> None:
    blob = b"\x02" + RING.encrypt(b"sk-test", PLACE)[1:]

    with pytest.raises(DecryptionFailed):
        RING.decrypt(blob, PLACE)
    with pytest.raises(DecryptionFailed):
        RING.needs_rotation(blob)


def test_repr_shows_no_key_material() -> None:
    assert repr(RING) == "<Keyring vendor-key keys=[2, 1] current=2>"


@given(
    one=st.tuples(st.none() | st.text(max_size=5), st.text(max_size=5), st.text(max_size=5)),
    other=st.tuples(st.none() | st.text(max_size=5), st.text(max_size=5), st.text(max_size=5)),
)
def test_no_two_places_have_the_same_associated_data(
    one: tuple[str | None, str, str], other: tuple[str | None, str, str]
) -> None:
    assert (aad(*one) == aad(*other)) is (one == other)


def test_an_identifier_and_its_text_are_the_same_place() -> None:
    tenant = "0190a1b2-0000-7000-8000-000000000001"

    assert aad(UUID(tenant), 7, "u") == aad(tenant, "7", "u")


def test_reads_numbered_keys_in_order() -> None:
    first, second = generate_key(), generate_key()

    keys = parse_numbered_keys(f"12:{first}, 3:{second}")

    assert list(keys) == [12, 3]
    assert keys[3] == base64.b64decode(second)
    assert Keyring.parse(f"12:{first},3:{second}", purpose=VENDOR_KEY).current_id == 12


GOOD = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("", "key 1: expected NUMBER:BASE64"),
        (GOOD, "key 1: expected NUMBER:BASE64"),
        (f"one:{GOOD}", "key 1: expected NUMBER:BASE64"),
        (f"1:{GOOD},", "key 2: expected NUMBER:BASE64"),
        (f"0:{GOOD}", "key 1: the number"),
        (f"4294967296:{GOOD}", "key 1: the number"),
        (f"1:{GOOD},1:{GOOD}", "key 2: number 1 is used twice"),
        ("1:!!secret!!", "key 1: not valid base64"),
        ("1:c2VjcmV0", "key 1: 32 bytes are needed, not 6"),
    ],
)
def test_refuses_a_bad_setting_without_showing_it(setting: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        parse_numbered_keys(setting)
    assert GOOD not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_keyring_needs_whole_keys() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Keyring({}, purpose=VENDOR_KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        Keyring({1: b"short"}, purpose=VENDOR_KEY)


def test_generated_keys_are_fresh_and_256_bits_long() -> None:
    keys = {generate_key() for _ in range(50)}

    assert len(keys) == 50
    assert all(len(base64.b64decode(key)) == 32 for key in keys)
