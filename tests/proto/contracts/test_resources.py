"""Sizes as people write them, and budgets that only ever shrink."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import Budget, format_size, parse_size
from lite_llm.contracts.errors import InvalidRequest, InvalidSettings
from lite_llm.contracts.resources import NO_LIMITS

limits = st.none() | st.integers(min_value=1, max_value=2**32 - 1)
budgets = st.builds(
    Budget, first_token_ms=limits, per_token_ms=limits, micro_cost_per_1k_tokens=limits
)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("0", 0), ("4096", 4096), ("4096B", 4096), ("8MiB", 8 << 20), ("8 MiB", 8 << 20),
     ("4Gi", 4 << 30), ("1.5GB", 1_500_000_000), ("1.5 GiB", 3 << 29), ("2KB", 2000),
     ("2KiB", 2048), ("1PiB", 1 << 50), ("1PB", 10**15), ("0.1KiB", 102),
     ("1.999999999KB", 1999), (" 7 ", 7), ("007", 7),
     ("9007199254740993", 2**53 + 1), ("1.5TiB", 3 << 39)],
)  # fmt: skip
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    ["", " ", "B", "MiB", "-1", "-1MiB", "+1", "1.", ".5GiB", "1..5", "1.5.5", "1e9", "1,5GB",
     "1_000", "8mib", "8MIB", "8 M", "8Mb", "8kB", "8MiB/s", "0x10", "inf", "nan", "٣MiB", "8\nMiB",
     "8 Mi B", "1.0123456789GB", "9" * 5000, "1" * 21, "8MiB" * 1000, "8\0MiB", "½GiB",
     "\uff18MiB"],
    ids=lambda text: ascii(text[:12]),
)  # fmt: skip
def test_other_words_are_no_sizes(text: str) -> None:
    with pytest.raises(InvalidSettings, match="is not a size: write a number and B") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=30))
def test_reading_sizes_is_total(text: str) -> None:
    with suppress(InvalidSettings):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 << 29, "1.5 GiB"),
     (1 << 50, "1.0 PiB"), (1 << 61, "2048.0 PiB"), (-2048, "-2.0 KiB")],
)  # fmt: skip
def test_sizes_are_written(num_bytes: int, text: str) -> None:
    assert format_size(num_bytes) == text


@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_written_size_reads_back_within_a_twentieth(num_bytes: int) -> None:
    assert parse_size(format_size(num_bytes)) == pytest.approx(num_bytes, rel=0.05)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_plain_bytes_are_exact(num_bytes: int) -> None:
    assert parse_size(str(num_bytes)) == num_bytes
    assert parse_size(f"{num_bytes} B") == num_bytes


@pytest.mark.parametrize("field", ["first_token_ms", "per_token_ms", "micro_cost_per_1k_tokens"])
@pytest.mark.parametrize("value", [0, -1, 2**64])
def test_a_limit_is_positive_and_fits_the_wire(field: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"budget {field} is {value}: leave it out") as caught:
        Budget(**{field: value})
    assert caught.value.where == field


@given(budgets, budgets, budgets)
def test_tightening_takes_the_smaller_limit_of_each(
    one: Budget, two: Budget, three: Budget
) -> None:
    both = one.tightened(two)
    for name, limit in vars(both).items():
        given_limits = [value for value in (vars(one)[name], vars(two)[name]) if value is not None]
        assert limit == (min(given_limits) if given_limits else None)
    assert both == two.tightened(one)
    assert both.tightened(three) == one.tightened(two.tightened(three))
    assert both.tightened(one) == both
    assert one.tightened(NO_LIMITS) == one
