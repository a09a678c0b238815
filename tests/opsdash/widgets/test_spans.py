import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from opsdash.widgets.spans import Span, changed_cells, fit, in_ascii, within, wrap

WORDS = st.text(st.sampled_from("ab é模\x1b\u202e\u0301"), max_size=40)
LINES = st.lists(
    st.builds(
        Span, st.text("ab 模", max_size=12), st.sampled_from(["", "bad", "cursor"])
    ),
    max_size=6,
).map(tuple)


def cells(line):
    """What each cell shows: character, tone, and which half of a wide one."""
    return [
        (character, tone, half)
        for text, tone in line
        for character in text
        for half in range(cell_len(character))
    ]


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("loss", 6, "loss  "),
        ("gradient", 6, "gradi~"),
        ("模型", 3, "模~"),
        ("模型", 2, " ~"),
        ("a\x1bb", 6, "a\\x1bb"),
        ("anything", 0, ""),
        ("", 2, "  "),
    ],
)
def test_a_text_is_cut_or_padded_to_cells(text, width, fitted):
    assert fit(text, width, ellipsis="~") == fitted


def test_a_number_is_padded_at_its_left():
    assert fit("1,240", 7, right=True) == "  1,240"


@given(WORDS, st.integers(0, 30))
def test_a_fitted_text_has_exactly_its_width(text, width):
    assert cell_len(fit(text, width, ellipsis="…")) == width


@given(WORDS, st.integers(8, 30))
def test_wrapped_lines_hold_every_character_within_the_width(text, width):
    lines = wrap(text, width)

    assert all(cell_len(line) <= width for line in lines)
    shown = fit(text, 1000).rstrip()
    assert "".join(lines).replace(" ", "") == shown.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("verified 17 s ago", ["verified", "17 s ago"]),
        ("missing 4.2 %, so", ["missing", "4.2 %, so"]),
        ("about 1.42 GiB (1)", ["about", "1.42 GiB", "(1)"]),
        ("step 7 so far", ["step 7 so", "far"]),
        ("5 min 03 s", ["5 min 03 s"]),
    ],
)
def test_a_number_is_not_parted_from_its_unit(text, lines):
    assert wrap(text, 10) == lines


def test_wrapping_breaks_at_spaces_and_long_words_anywhere():
    assert wrap("the newest checkpoint", 10) == ["the newest", "checkpoint"]
    assert wrap("a 0123456789abc", 10) == ["a", "0123456789", "abc"]
    assert wrap("", 10) == [""]


@given(WORDS)
def test_in_ascii_a_text_keeps_its_width(text):
    plain = in_ascii(fit(text, 30))

    assert plain.isascii()
    assert cell_len(plain) == 30
    assert in_ascii("a模") == "a??"
    assert in_ascii("21 µs") == "21 us"


@given(st.lists(st.builds(Span, WORDS), max_size=5), st.integers(0, 30))
def test_spans_within_a_width_do_not_exceed_it(spans, width):
    line = within(spans, width, "…")

    assert cell_len("".join(span.text for span in line)) <= width


def test_only_cells_that_differ_are_sent():
    before = (Span("loss 2.31   "), Span("ok", "ok"))
    after = (Span("loss 2.29   "), Span("ok", "ok"))

    assert changed_cells(before, after) == [(7, 9)]
    assert changed_cells(before, before) == []


def test_a_change_of_tone_is_a_change_except_on_a_blank():
    assert changed_cells((Span("a b", ""),), (Span("a b", "bad"),)) == [(0, 3)]
    assert changed_cells((Span("   ", ""),), (Span("   ", "bad"),)) == []
    assert changed_cells((Span("   ", ""),), (Span("   ", "cursor"),)) == [(0, 3)]


def test_far_changes_are_sent_apart_and_close_ones_together():
    before = (Span("x" * 100),)
    after = (Span("o" + "x" * 30 + "oxo" + "x" * 66),)

    assert changed_cells(before, after) == [(0, 1), (31, 34)]


@given(LINES, LINES)
def test_sending_the_changed_cells_makes_the_new_line(before, after):
    patched = cells(before)
    patched += [(" ", "", 0)] * (len(cells(after)) - len(patched))
    wanted = cells(after)

    for start, stop in changed_cells(before, after):
        patched[start:stop] = wanted[start:stop]

    assert [seen(cell) for cell in patched] == [seen(cell) for cell in wanted]


def seen(cell):
    character, tone, _ = cell
    return (" ", tone if tone == "cursor" else "", 0) if character == " " else cell
