import msgspec
import pytest

from gateway.errors import InvalidRequest
from gateway.wire import anthropic_messages
from gateway.wire.validation import decode_or_refuse


class Inner(msgspec.Struct):
    size: int


class Outer(msgspec.Struct):
    items: list[Inner] = []
    named: dict[str, int] = {}


OUTER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"items":[{"size":1},{"size":"x"}]}', "items[1].size", "expected `int`, got `str`"),
        (b'{"items":[{}]}', "items[0].size", "Missing required field 'items[0].size'."),
        (b'{"named":{"a":"x"}}', "named[...]", "expected `int`"),
        (b"[]", None, "Invalid value: expected `object`, got `array`."),
        (b"{", None, "Invalid value"),
    ],
)
def test_the_place_of_a_wrong_value_is_named(body: bytes, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_or_refuse(OUTER, body)

    assert caught.value.param == param
    assert message in caught.value.message


def test_the_place_of_the_decoded_part_comes_first() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_or_refuse(OUTER, b'{"items":[5]}', param="tools")
    assert caught.value.param == "tools.items[0]"

    with pytest.raises(InvalidRequest) as caught:
        decode_or_refuse(OUTER, b"5", param="tools")
    assert caught.value.param == "tools"


def test_what_fits_is_decoded() -> None:
    assert decode_or_refuse(OUTER, msgspec.Raw(b'{"items":[{"size":2}]}')).items[0].size == 2


@pytest.mark.parametrize("role", ["x" * 100_000, "é" * 100_000])
def test_what_a_refusal_quotes_of_a_wrong_value_is_short(role: str) -> None:
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": [{"role": role, "content": "hi"}]})
    with pytest.raises(InvalidRequest) as refused:
        anthropic_messages.parse_request(body, {})
    assert refused.value.param == "messages[0].role"
    assert len(str(refused.value)) < 300
