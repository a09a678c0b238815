import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdash.projections.match import matcher


@pytest.mark.parametrize(
    ("pattern", "text", "passes"),
    [
        ("", "anything", True),
        ("hang", "rank 3: hang_named", True),
        ("hang", "rank 3: HANG", True),
        ("Hang", "rank 3: hang", False),
        ("rank [12]$", "rank 2", True),
        ("rank [12]$", "rank 3", False),
        ("!heartbeat", "heartbeat", False),
        ("!heartbeat", "step_done", True),
        ("!", "anything", True),
        ("!!x", "a!x", False),
    ],
)
def test_a_filter(pattern, text, passes):
    assert matcher(pattern)(text) is passes


@pytest.mark.parametrize("half", ["(", "a(b", "[", "[[", "a{2,1}", "*", "\\", "(?P<"])
def test_a_half_typed_expression_is_taken_literally(half):
    typed = matcher(half)

    assert typed.is_literal or typed(half)
    assert typed(f"before {half} after")


def test_an_expression_that_is_too_big_is_taken_literally():
    assert matcher("a{99999999999999999999}").is_literal
    assert matcher("(" * 499 + ")" * 499).is_literal


def test_only_the_beginning_of_an_endless_text_is_looked_at():
    assert not matcher("end")("x" * 10_000 + "end")


def test_a_filter_that_lets_everything_through_says_so():
    assert matcher("").is_everything
    assert matcher("!").is_everything
    assert not matcher("x").is_everything


@given(st.text(max_size=30), st.text(max_size=50))
def test_no_pattern_ever_fails(pattern, text):
    matcher(pattern)(text)


@given(st.text(min_size=1, max_size=20), st.text(max_size=50))
def test_an_inverse_filter_is_the_opposite(pattern, text):
    if not pattern.startswith("!"):
        assert matcher(f"!{pattern}")(text) is not matcher(pattern)(text)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_an_escaped_text_finds_itself(wanted, before, after):
    assert matcher(re.escape(wanted))(before + wanted + after) or wanted[0] == "!"
