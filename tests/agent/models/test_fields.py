"""Fields are read by their types, and those that nobody read are refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.models import parse_json
from lite_llm.models.fields import Fields

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(ANYTHING)
@settings(max_examples=60)
def test_a_value_is_of_its_type_or_refused_by_name(value: Any) -> None:
    fields = Fields({"x": value})
    readers: dict[str, Callable[[], object]] = {
        "count": lambda: fields.count("x", minimum=0),
        "number": lambda: fields.number("x"),
        "flag": lambda: fields.flag("x"),
        "text": lambda: fields.text("x"),
        "items": lambda: fields.items("x"),
        "nested": lambda: fields.nested("x"),
    }
    accepted = {
        "count": type(value) is int and value >= 0,
        "number": type(value) in (int, float) and 0 < value < 1e300,
        "flag": value is None or type(value) is bool,
        "text": isinstance(value, str),
        "items": value is None or isinstance(value, list),
        "nested": value is None or isinstance(value, dict),
    }
    for kind, read in readers.items():
        if accepted[kind]:
            read()
            continue
        with pytest.raises(Corrupt, match=r"config\.json: x is") as refusal:
            read()
        assert refusal.value.where == "x"


@given(st.dictionaries(st.text(max_size=8), ANYTHING, max_size=6))
@settings(max_examples=60)
def test_every_field_is_read_or_harmless_or_refused(values: dict[str, Any]) -> None:
    fields = Fields(values)
    read = list(values)[::2]
    for name in read:
        fields.raw(name)
    suspicious = [
        name
        for name, value in values.items()
        if name not in read and value is not None and not name.startswith("_")
    ]
    if not suspicious:
        fields.finish()
        return
    with pytest.raises(Unsupported) as refusal:
        fields.finish()
    assert refusal.value.where == suspicious[0]


def test_defaults_stand_for_absence_and_null() -> None:
    fields = Fields({"null": None})
    for name in ("null", "absent"):
        assert name not in fields
        assert fields.count(name, 3) == 3
        assert fields.number(name, 2.5) == 2.5
        assert fields.flag(name, default=True) is True
        assert fields.text(name, "a") == "a"
        assert fields.optional_count(name) is None
        assert fields.optional_number(name) is None
        with pytest.raises(Corrupt, match=f"{name} is None"):
            fields.count(name)
    assert fields.mentions("null")
    assert not fields.mentions("absent")


@pytest.mark.parametrize("value", [0, "", None, False])
def test_one_implemented_value_is_told_from_those_that_equal_it(value: object) -> None:
    for other in (0, "", False):
        fields = Fields({"x": value})
        if value is None or type(value) is type(other):
            fields.only("x", other)
        else:
            with pytest.raises(Unsupported, match=r"config\.json: x = .* is not supported"):
                fields.only("x", other)


def test_what_changes_no_answer_is_ignored() -> None:
    fields = Fields({"use_cache": True, "_name_or_path": "/x", "some_new_thing": None, "mine": 1})
    fields.ignore("mine")
    fields.finish()


def test_a_nested_object_has_fields_of_its_own() -> None:
    fields = Fields({"a": {"b": 2}, "b": "no count"})
    nested = fields.nested("a")
    assert nested is not None
    assert nested.count("b") == 2
    nested.finish()
    with pytest.raises(Unsupported, match="b = 'no count'"):
        fields.finish()


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(LiteLLMError) as refusal:
        Fields({"x": "y" * 10_000}).count("x")
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b'{"a": ' * 100_000, b"\xff"])
def test_broken_json(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"a/generation_config\.json"):
        parse_json(data, "a/generation_config.json")
