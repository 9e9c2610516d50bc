"""Large objects read member by member, held against the standard parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.checkpoint.json_members import members
from lite_llm.contracts.errors import Corrupt

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.lists(st.integers(-5, 2**63), max_size=4)
flat = st.dictionaries(text, text | numbers | st.booleans() | st.none(), max_size=4)
objects = st.dictionaries(text, text | flat, max_size=6)


def read(data: bytes, max_count: int = 100) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in members(data, "x", max_count=max_count)}


@given(value=objects, plain=st.booleans(), indent=st.sampled_from([None, 0, 3, "\t"]))
def test_what_the_standard_parser_sees(value: Any, plain: bool, indent: Any) -> None:
    data = json.dumps(value, ensure_ascii=plain, indent=indent).encode()
    assert read(data) == value
    assert read(b" \r\n" + data + b"  ") == value
    assert list(dict(members(data, "x", max_count=100))) == list(value)


@given(value=objects, cut=st.integers(0, 400), insert=st.binary(max_size=3))
def test_what_is_broken_is_refused_or_read_as_the_standard_parser_does(
    value: Any, cut: int, insert: bytes
) -> None:
    data = json.dumps(value).encode()
    broken = data[:cut] + insert + data[cut + 1 :]
    try:
        found = read(broken)
    except (Corrupt, ValueError):  # ValueError: of a member's value, which its reader refuses
        return
    assert found == json.loads(broken)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{", b'{"a"', b'{"a":', b'{"a":1}', b'{"a":[]}', b'{"a":"b",}', b'{,"a":"b"}',
        b'{"a":{"b":{}}}', b'{"a":"b"}x', b'{"a":"b"}}', b'{"a":"b""c":"d"}', b"{'a':'b'}",
        b'{"a\n":"b"}', b'{"a\\q":"b"}', b'{"\xff":"b"}', b'{"a\\":"b"}', b'\xef\xbb\xbf{"a":"b"}',
        b'{"\\ud800":"b"}',
    ],
)  # fmt: skip
def test_what_is_no_object_of_strings_and_flat_objects_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"^x: "):
        read(data)


def test_a_name_may_be_there_once_however_it_is_spelled() -> None:
    with pytest.raises(Corrupt, match="key 'a' twice"):
        read(b'{"b":"1","a":"1","\\u0061":{}}')
    assert read(b'{"a":"1","A":"2"}') == {"a": "1", "A": "2"}


def test_there_may_be_as_many_members_as_was_said() -> None:
    data = json.dumps(dict.fromkeys("abc", "x")).encode()
    assert len(read(data, max_count=3)) == 3
    with pytest.raises(Corrupt, match="more than 2 members"):
        read(data, max_count=2)
