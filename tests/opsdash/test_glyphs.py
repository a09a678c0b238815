from dataclasses import asdict

from rich.cells import cell_len

from opsdash.glyphs import ASCII, UNICODE, glyphs_of


def characters(glyphs):
    values = [value for value in asdict(glyphs).values() if isinstance(value, str)]
    return "".join(values)


def test_the_ascii_set_is_ascii():
    assert characters(ASCII).isascii()
    assert characters(ASCII).isprintable()


def test_every_glyph_is_one_cell_wide():
    assert all(cell_len(glyph) == 1 for glyph in characters(UNICODE))


def test_both_sets_have_as_many_densities_heights_and_heads():
    for name in ("heat", "bars", "heads"):
        assert len(getattr(ASCII, name)) == len(getattr(UNICODE, name))
        assert len(set(getattr(ASCII, name))) == len(getattr(ASCII, name))


def test_states_have_marks_of_their_own():
    for glyphs in (ASCII, UNICODE):
        marks = (
            glyphs.healthy,
            glyphs.degraded,
            glyphs.dead,
            glyphs.blind,
            glyphs.finished,
        )
        assert len(set(marks)) == 5


def test_an_app_that_does_not_say_gets_unicode():
    class Terse:
        glyphs = ASCII

    assert glyphs_of(Terse()) is ASCII
    assert glyphs_of(object()) is UNICODE
