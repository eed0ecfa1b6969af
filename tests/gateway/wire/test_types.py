import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.types import MAX_DEPTH, MalformedJson, Usage, decode_fields

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
STYLES = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 2}, {"ensure_ascii": False}])


def test_values_keep_their_bytes_and_order() -> None:
    fields = decode_fields(b'{"b": 1.50e1, "a":  {"y" :2,"x": "\\u00e9"} ,"c":null}')

    assert {name: bytes(value) for name, value in fields.items()} == {
        "b": b"1.50e1",
        "a": b'{"y" :2,"x": "\\u00e9"}',
        "c": b"null",
    }
    assert list(fields) == ["b", "a", "c"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b'{"a":1',
        b'{"a":1} {}',
        b'{"a":NaN}',
        b'{"a":[-Infinity]}',
        b'{"a":"\xff"}',
        b'{"a":"\n"}',
        b"{'a':1}",
        b'{"a":01}',
        b'\xef\xbb\xbf{"a":1}',
    ],
)
def test_anything_but_one_sound_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson, match="not a JSON object"):
        decode_fields(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{ "a" : 1 , "b" : ":" , "a" : 1 }',
        b'{"a":"\\"","a":"\\\\"}',
        b'{"\\u0061":1,"a":1}',
        b'{"a":{"x":1},"a":{"x":1}}',
    ],
)
def test_a_repeated_top_level_key_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedJson, match="repeats"):
        decode_fields(body)


def test_a_key_repeated_further_down_is_the_vendors_business() -> None:
    body = b'{ "a": {"x":1,"x":2}, "b": "a:\\"b\\":" }'

    assert bytes(decode_fields(body)["a"]) == b'{"x":1,"x":2}'


def test_nesting_is_bounded_and_brackets_in_text_do_not_nest() -> None:
    deepest = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    text = json.dumps({"code": "[{" * 100 + '\\"' + "[" * 100, "list": [[]] * 100}).encode()

    assert decode_fields(deepest)
    assert decode_fields(text)
    with pytest.raises(MalformedJson, match="deeper than 64"):
        decode_fields(deepest.replace(b"[]", b"[[[]]]"))
    with pytest.raises(MalformedJson):
        decode_fields(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=6), STYLES)
def test_every_sound_object_is_taken_apart_whatever_its_white_space(value: dict[str, object], style: dict) -> None:
    fields = decode_fields(json.dumps(value, **style).encode())

    assert {name: json.loads(bytes(raw)) for name, raw in fields.items()} == value
    assert list(fields) == list(value)


def test_usage_totals_add_up_the_disjoint_classes() -> None:
    usage = Usage(
        input=1,
        cached_input=2,
        cache_write_5m=4,
        cache_write_1h=8,
        audio_input=16,
        output=32,
        reasoning=64,
        audio_output=128,
    )

    assert (usage.total_input, usage.total_output) == (31, 224)
