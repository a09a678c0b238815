import math
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdash import units

NS = 1_000_000_000
ANY_NUMBER = st.floats() | st.integers(-(10**400), 10**400)
ANY_NS = st.integers(-(2**70), 2**70)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123, "0.00123"),
        (4.5e-7, "4.5e-7"),
        (12.34, "12.3"),
        (999.4, "999"),
        (999.6, "1k"),
        (1240, "1.24k"),
        (-1_240_000, "-1.24M"),
        (124_000_000, "124M"),
        (3e17, "3e17"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (10**400, "inf"),
        (None, "-"),
    ],
)
def test_a_number_has_three_digits(value, text):
    assert units.number(value) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1_048_576, "1 MiB"),
        (1_524_713_390, "1.42 GiB"),
        (1.9e21, "1.9e21 B"),
        (None, "-"),
    ],
)
def test_a_size_is_told_in_binary_units(num_bytes, text):
    assert units.byte_size(num_bytes) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (850, "850 ns"),
        (999, "999 ns"),
        (1_000, "1 µs"),
        (2_140, "2.14 µs"),
        (420_000, "420 µs"),
        (999_600, "1 ms"),
        (26_400_000, "26.4 ms"),
        (999_600_000, "1.0 s"),
        (1_200_000_000, "1.2 s"),
        (59_940_000_000, "59.9 s"),
        (59_960_000_000, "1 min 00 s"),
        (303 * NS, "5 min 03 s"),
        (3600 * NS - 1, "1 h 00 min"),
        (8040 * NS, "2 h 14 min"),
        (76 * 3600 * NS, "3 d 04 h"),
        (-1_500_000_000, "-1.5 s"),
        (None, "-"),
    ],
)
def test_a_duration_is_told_in_at_most_two_units(ns, text):
    assert units.duration(ns) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (NS - 1, "now"),
        (12 * NS, "12 s ago"),
        (119 * NS, "1 min ago"),
        (3 * 3600 * NS, "3 h ago"),
        (4 * 86_400 * NS, "4 d ago"),
        (-5 * NS, "in 5 s"),
        (None, "-"),
    ],
)
def test_the_past_is_told_in_one_unit(ns, text):
    assert units.ago(ns) == text


@pytest.mark.parametrize(
    ("frac", "text"),
    [
        (0, "0.0 %"),
        (0.0004, "<0.1 %"),
        (0.042, "4.2 %"),
        (0.0996, "10 %"),
        (0.371, "37 %"),
        (0.9999, "99.9 %"),
        (1, "100 %"),
        (1.07, "107 %"),
        (None, "-"),
    ],
)
def test_percent_never_says_done_before_it_is(frac, text):
    assert units.percent(frac) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (12.5, "12.5 steps/s"),
        (0.02, "1.2 steps/min"),
        (0.0005, "1.8 steps/h"),
        (0, "0 steps/s"),
        (None, "-"),
    ],
)
def test_a_slow_rate_is_told_in_a_longer_unit(per_s, text):
    assert units.rate(per_s, "steps") == text


def test_steps_have_separators():
    assert units.count(1_240) == "1,240"
    assert units.count(None) == "-"


def test_the_time_of_day_follows_the_zone_of_the_reader():
    noon = 1_700_000_000 * NS

    assert units.clock_time(noon, UTC) == "22:13:20"
    assert units.clock_time(noon, timezone(timedelta(hours=2))) == "00:13:20"
    assert units.clock_time(2**80) == "-"


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([], ""),
        ([3], "3"),
        ([5, 0, 2, 1, 1], "0-2, 5"),
        (range(4096), "0-4095"),
        (range(0, 20, 2), "0, 2, 4, 6, 8, 10, 4 more"),
    ],
)
def test_ranks_are_told_as_ranges(ranks, text):
    assert units.rank_ranges(ranks) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("loss 2.31", "loss 2.31"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("two\nlines\t", r"two\x0alines\x09"),
        ("evil\u202etxt", r"evil\u202etxt"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("❤\ufe0f", "❤\\ufe0f"),
        ("naïve 模型 \u00a0", "naïve 模型 \u00a0"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_characters_that_could_act_are_spelt_out(text, shown):
    assert units.visible(text) == shown


@given(st.text())
def test_visible_text_cannot_act_and_is_stable(text):
    shown = units.visible(text)

    assert all(character.isprintable() or character.isspace() for character in shown)
    assert not set(shown) & set("\n\r\t\x0b\x0c\x1b\x1c\x1d\x1e\x1f\x85\u2028\u2029")
    assert units.visible(shown) == shown


@given(ANY_NUMBER)
def test_any_number_has_a_short_text(value):
    assert 0 < len(units.number(value)) <= 10
    assert 0 < len(units.byte_size(value)) <= 12
    assert 0 < len(units.percent(value)) <= 12
    assert 0 < len(units.rate(value, "steps")) <= 20


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_reads_back_within_half_a_digit(value):
    text = units.number(value)

    scales = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    scale = scales.get(text[-1], 1.0)
    digits = text[:-1] if text[-1] in scales else text
    assert float(digits) * scale == pytest.approx(value, rel=0.0051)


@given(ANY_NS, ANY_NS)
def test_a_longer_time_never_reads_as_a_shorter_one(first, second):
    shorter, longer = sorted((abs(first), abs(second)))

    assert in_ns(units.duration(shorter)) <= in_ns(units.duration(longer))
    assert len(units.ago(first)) <= len("1,000,000,000 d ago")


def in_ns(text):
    words = text.replace(",", "").split()
    scale = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}
    scale |= {"min": 6e10, "h": 3.6e12, "d": 8.64e13}
    return sum(
        float(value) * scale[unit]
        for value, unit in zip(words[::2], words[1::2], strict=True)
    )


@given(st.integers(-(10**5000), 10**5000))
def test_any_count_has_a_text(value):
    assert 0 < len(units.count(value)) <= 20


@given(st.sets(st.integers(0, 10**9) | st.integers(0, 30), max_size=40))
def test_ranges_account_for_every_rank(ranks):
    text = units.rank_ranges(ranks, most=10**6)

    assert set(members(text)) == ranks


def members(text):
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
