import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants import tokens
from tenants.crypto import generate_key
from tenants.tokens import Peppers

PEPPERS = Peppers({2: b"2" * 32, 1: b"1" * 32})


def test_a_minted_token_has_the_promised_format() -> None:
    minted = tokens.mint(PEPPERS)

    assert re.fullmatch(r"gw_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}[0-9a-f]{8}", minted.text)
    assert tokens.well_formed(minted.text)
    assert minted.text.split("_")[1] == minted.public_id
    assert minted.text.endswith(minted.last_four)


def test_a_minted_token_is_digested_under_the_current_pepper() -> None:
    minted = tokens.mint(PEPPERS)

    assert minted.pepper_id == 2
    assert minted.digest == tokens.digest(minted.text, PEPPERS[2])
    assert len(minted.digest) == 32


def test_no_two_minted_tokens_share_an_id_or_a_secret() -> None:
    minted = [tokens.mint(PEPPERS) for _ in range(1_000)]

    assert len({token.public_id for token in minted}) == 1_000
    assert len({token.text.split("_")[2] for token in minted}) == 1_000


def test_the_secret_uses_the_whole_range_of_256_bits() -> None:
    secrets = [tokens.mint(PEPPERS).text.split("_")[2][:43] for _ in range(500)]

    assert all(len({secret[at] for secret in secrets}) > 40 for at in range(42))


def test_repr_shows_neither_text_nor_digest_nor_pepper() -> None:
    minted = tokens.mint(PEPPERS)

    assert minted.text not in repr(minted)
    assert repr(minted.digest) not in repr(minted)
    assert "1111" not in repr(PEPPERS) + repr(PEPPERS.current)


@given(at=st.integers(0, 66), replacement=st.sampled_from("0Aaz_-~"))
def test_any_mistyped_character_is_noticed(at: int, replacement: str) -> None:
    text = tokens.mint(PEPPERS).text
    mistyped = text[:at] + replacement + text[at + 1 :]

    assert tokens.well_formed(mistyped) is (mistyped == text)


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_a_token_that_was_cut_off_is_not_well_formed(cut: int) -> None:
    assert not tokens.well_formed(tokens.mint(PEPPERS).text[:-cut])


def test_a_trailing_newline_is_not_well_formed() -> None:
    assert not tokens.well_formed(tokens.mint(PEPPERS).text + "\n")


def test_digest_is_hmac_sha256() -> None:
    # RFC 4231, test case 2
    pepper = Peppers({1: b"Jefe"})[1]
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert tokens.digest("what do ya want for nothing?", pepper).hex() == expected


def test_digests_offer_the_current_pepper_first() -> None:
    candidates = list(PEPPERS.digests("some-token"))

    assert [pepper_id for pepper_id, _ in candidates] == [2, 1]
    assert candidates[1][1] == tokens.digest("some-token", PEPPERS[1])
    assert candidates[0][1] != candidates[1][1]


def test_matches_only_its_own_digest_and_pepper() -> None:
    minted = tokens.mint(PEPPERS)

    assert tokens.matches(minted.text, minted.digest, PEPPERS[2])
    assert not tokens.matches(minted.text, minted.digest, PEPPERS[1])
    assert not tokens.matches(minted.text + "x", minted.digest, PEPPERS[2])


def test_peppers_are_read_from_their_setting() -> None:
    peppers = Peppers.parse(f"7:{generate_key()}, 3:{generate_key()}")

    assert peppers.current.id == 7
    assert peppers[3].id == 3
    with pytest.raises(KeyError):
        peppers[1]


def test_peppers_cannot_be_empty() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Peppers({})


@pytest.mark.parametrize("value", ["a" * 24, "sk-test-0123456789-abcdefghij", "gw_demo_token_for_the_tests", "!" * 512])
def test_given_values_of_24_printable_characters_are_acceptable(value: str) -> None:
    tokens.acceptable_value(value)

    assert tokens.plausible(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "at least 24"),
        ("a" * 23, "at least 24"),
        ("a" * 513, "at most 512"),
        ("a" * 24 + " ", "without spaces"),
        ("a" * 24 + "\n", "printable ASCII"),
        ("a" * 24 + "\x7f", "printable ASCII"),
        ("ä" * 24, "printable ASCII"),
        ("gw_" + "a" * 12 + "_" + "b" * 43 + "00000000", "checksum"),
    ],
)
def test_other_given_values_are_refused_with_the_reason(value: str, reason: str) -> None:
    assert not tokens.plausible(value)
    with pytest.raises(ValueError, match=reason) as refusal:
        tokens.acceptable_value(value)
    assert not value or value not in str(refusal.value)


def test_an_adopted_value_in_the_token_format_keeps_its_public_id() -> None:
    minted = tokens.mint(PEPPERS)

    assert tokens.adopt(minted.text, PEPPERS) == minted


def test_an_adopted_value_of_another_kind_is_given_a_public_id() -> None:
    adopted = tokens.adopt("sk-from-another-gateway-1", PEPPERS)

    assert re.fullmatch(r"[0-9A-Za-z]{12}", adopted.public_id)
    assert adopted.last_four == "ay-1"
    assert tokens.matches("sk-from-another-gateway-1", adopted.digest, PEPPERS.current)
    with pytest.raises(ValueError, match="at least 24"):
        tokens.adopt("short", PEPPERS)


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bearer  abc ")], "abc"),
        ([(b"x-api-key", b"abc")], "abc"),
        ([(b"api-key", b" abc ")], "abc"),
        ([(b"x-goog-api-key", b"abc")], "abc"),
        ([(b"x-api-key", b"other"), (b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"Bearer abc"), (b"x-api-key", b"other")], "abc"),
        ([(b"api-key", b"abc"), (b"x-api-key", b"other")], "abc"),
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"abc")], "abc"),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"abc")], "abc"),
        ([(b"x-api-key", b" "), (b"api-key", b"abc")], "abc"),
        ([(b"x-api-key", b"\xe4")], "\xe4"),
        ([(b"authorization", b"Basic dTpw")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"host", b"localhost"), (b"cookie", b"abc")], None),
        ([], None),
    ],
)
def test_finds_the_credential_in_raw_headers(headers: list[tuple[bytes, bytes]], credential: str | None) -> None:
    assert tokens.bearer_from(headers) == credential
