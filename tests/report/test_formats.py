from __future__ import annotations

import math

import pytest

from m3tl_cli.report import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.1235"),
        (-1.5, "\u22121.5"),
        (12345.6, "12,346"),
        (0.00001234, "1.23e-5"),
        (-2.5e16, "\u22122.50e16"),
        (math.nan, "n/a"),
        (math.inf, "\u221e"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert formats.number(value) == text


def test_a_number_stays_with_its_unit() -> None:
    assert formats.number(2.9, "m") == "2.9\u00a0m"
    assert formats.number(math.nan, "m") == "n/a"


@pytest.mark.parametrize(
    ("share", "text"), [(0.256, "26 %"), (-0.06, "\u22126 %"), (0.0, "0 %"), (-0.001, "0 %"), (-12.5, "\u22121,250 %")]
)
def test_shares_are_whole_percentages(share: float, text: str) -> None:
    assert formats.percent(share) == text.replace(" ", "\u00a0")


def test_a_share_that_is_no_number_is_said() -> None:
    assert formats.percent(math.nan) == "n/a"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (3.14, "3.1 s"), (59.4, "59 s"), (134.2, "2 min 14 s"), (3600, "1 h 0 min"), (3659.9, "1 h 1 min"), (math.nan, "n/a")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1 GiB"), (3 * 2**40, "3 TiB")])
def test_sizes_are_powers_of_1024(amount: int, text: str) -> None:
    assert formats.size(amount) == text


@pytest.mark.parametrize(
    ("operations", "text"),
    [
        (7.0, "7"), (999.4, "999"), (999.6, "1.0 k"), (9_949.0, "9.9 k"), (9_960.0, "10 k"), (35e9, "35 G"), (999.6e9, "1.0 T"),
        (1.24e12, "1.2 T"), (2e19, "20000 P"), (0.0, ""), (math.nan, ""),
    ],
)  # fmt: skip
def test_operations_are_two_digits_and_a_letter_and_empty_where_nobody_counted(operations: float, text: str) -> None:
    assert formats.flops(operations) == text


def test_what_no_font_has_becomes_a_question_mark() -> None:
    assert formats.drawable("Höhe \u2191 \u4e2d\x07") == "Höhe \u2191 ??"
