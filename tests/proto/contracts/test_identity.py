"""Names are what Kubernetes allows, and nothing else gets through."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import DEFAULT_NAMESPACE, ExpertKey, ModelRef
from lite_llm.contracts.errors import InvalidName
from lite_llm.contracts.identity import MAX_NAME_LENGTH, checked_label, checked_name, checked_node

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 63)
refs = st.builds(ModelRef, labels, names)
numbers = st.integers(min_value=0, max_value=10**10 - 1)
expert_keys = st.builds(ExpertKey, numbers, numbers, numbers, numbers)

HOSTILE = [
    "", " ", ".", "..", "...", "-", "-a", "a-", ".a", "a.", "a..b", "a.-b", "a-.b", "a/b", "/",
    "a\\b", "../etc", "a\n", "\na", "a\0", "a b", "A", "a_b", "é", "\u0430", "٣", "a\u200b", "%2e",
    "a*", "a:b", "a" * 64, "a" * 100_000, "\ud800", "a\r", "a\u2028",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_names_are_refused_everywhere(text: str) -> None:
    with pytest.raises(InvalidName):
        checked_label(text, "namespace")
    with pytest.raises(InvalidName):
        checked_name(text, "model")
    with pytest.raises(InvalidName):
        ModelRef("default", text)
    with pytest.raises(InvalidName):
        ModelRef(text, "a")
    if len(text) != 64:  # a node's name may be that long
        with pytest.raises(InvalidName):
            checked_node(text)


@given(st.text(max_size=70))
def test_exactly_the_names_of_dns_pass(text: str) -> None:
    # Written anew: one dot-separated part at a time, without the module's own expression.
    def is_label(part: str) -> bool:
        return (
            len(part) > 0
            and set(part) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
            and part[0] != "-" != part[-1]
        )

    assert passes(text) == (len(text) <= 63 and all(map(is_label, text.split("."))))


def passes(text: str) -> bool:
    try:
        return checked_name(text, "model") == text
    except InvalidName:
        return False


@given(names)
def test_names_of_dns_pass(name: str) -> None:
    assert passes(name)


def test_the_longest_names() -> None:
    assert checked_label("a" * MAX_NAME_LENGTH, "namespace")
    assert checked_node(".".join(["a" * 62] * 4) + "b")
    with pytest.raises(InvalidName, match="1 to 253"):
        checked_node(".".join(["a" * 63] * 4))


def test_a_refusal_says_what_and_how_without_repeating_it_all() -> None:
    with pytest.raises(InvalidName) as caught:
        ModelRef("default", "X" * 10_000)
    assert caught.value.where == "model"
    assert caught.value.remedy.startswith("use 1 to 63 of")
    assert len(str(caught.value)) < 300


@given(refs)
def test_a_reference_survives_writing_and_reading(ref: ModelRef) -> None:
    assert ModelRef.parse(str(ref)) == ref
    assert ModelRef.parse(str(ref), namespace="another") == ref
    assert ModelRef.parse(ref.name, namespace=ref.namespace) == ref
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert hash(ModelRef(ref.namespace, ref.name)) == hash(ref)


def test_a_bare_name_is_in_the_default_namespace() -> None:
    assert ModelRef.parse("llama") == ModelRef(DEFAULT_NAMESPACE, "llama")


@pytest.mark.parametrize(
    "text", ["", "/", "a/", "/a", "a/b/c", "a//b", "meta-llama/Llama-3", "a/b\n"]
)
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        ModelRef.parse(text)


@given(expert_keys)
def test_an_expert_key_survives_writing_and_reading(key: ExpertKey) -> None:
    assert ExpertKey.parse(str(key)) == key
    assert pickle.loads(pickle.dumps(key)) == key


@given(expert_keys, expert_keys)
def test_expert_keys_sort_by_layer_tier_group_expert(one: ExpertKey, other: ExpertKey) -> None:
    def parts(key: ExpertKey) -> tuple[int, ...]:
        return key.layer, key.tier, key.group, key.expert

    assert (one < other) == (parts(one) < parts(other))


@given(st.text(alphabet="0123456789.-+ _٣\n", max_size=20))
def test_an_expert_key_has_one_spelling(text: str) -> None:
    try:
        key = ExpertKey.parse(text)
    except InvalidName:
        assert not re.fullmatch(r"(0|[1-9][0-9]{0,9})(\.(0|[1-9][0-9]{0,9})){3}", text)
    else:
        assert str(key) == text


@pytest.mark.parametrize(
    "text",
    ["", "1.2.3", "1.2.3.4.5", "1.2.3.x", "01.2.3.4", "-1.2.3.4", "1.2.3.٣", "1.2.3.4\n",
     " 1.2.3.4", "9" * 5000 + ".0.0.0", "1..3.4"],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_malformed_expert_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidName, match=r"write layer\.tier\.group\.expert"):
        ExpertKey.parse(text)


def test_negative_parts_are_refused() -> None:
    with pytest.raises(InvalidName, match="negative part"):
        ExpertKey(0, 0, -1, 0)
