from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from opsdash.widgets.viewport import Viewport


class Scrolling(RuleBasedStateMachine):
    """However rows and cursor change, the cursor is on a row and in sight."""

    def __init__(self):
        super().__init__()
        self.view = Viewport()
        self.length = 0

    @rule(length=st.integers(0, 200), page=st.integers(-2, 40))
    def rows_and_screen_change(self, length, page):
        self.length = length
        self.view.settle(length, page)

    @rule(cursor=st.integers(-50, 250))
    def the_cursor_moves(self, cursor):
        self.view.move(cursor, self.length)

    @rule(rows=st.integers(-50, 50))
    def the_page_scrolls(self, rows):
        if self.length:
            self.view.scroll(rows, self.length)

    @rule(added=st.integers(0, 60))
    def rows_arrive_while_following(self, added):
        self.length += added
        self.view.follow(self.length)
        assert self.view.cursor == max(0, self.length - 1)

    @invariant()
    def the_cursor_is_in_sight(self):
        view = self.view
        assert 0 <= view.cursor <= max(0, self.length - 1)
        assert view.top <= view.cursor < view.top + view.page


TestScrolling = Scrolling.TestCase
TestScrolling.settings = settings(max_examples=60, stateful_step_count=30)


def test_rows_stand_still_while_following_until_the_page_is_full():
    view = Viewport()
    view.settle(0, 12)
    tops = []
    for length in range(1, 25):
        view.follow(length)
        tops.append(view.top)

    assert tops == [0] * 12 + [4] * 4 + [8] * 4 + [12] * 4


@given(length=st.integers(0, 200), pages=st.lists(st.integers(1, 40), min_size=1))
def test_the_newest_row_ends_the_page_whatever_heights_it_had_before(length, pages):
    view = Viewport()
    for page in pages:
        view.follow(length)
        view.settle(length, page)

    assert view.top == max(0, length - pages[-1])


def test_a_burst_of_rows_fills_the_page():
    view = Viewport()
    view.settle(0, 12)

    view.follow(1000)

    assert (view.top, view.cursor) == (988, 999)


def test_a_row_that_moved_stays_where_it_was_seen():
    view = Viewport(cursor=10, top=5, page=12)

    view.place(110)

    assert (view.top, view.cursor) == (105, 110)


def test_the_page_is_filled_again_when_rows_go_away():
    view = Viewport(cursor=90, top=85, page=12)

    view.settle(20, 12)

    assert view.cursor == 19
    assert view.top <= 20 - 12 + 4


@given(st.integers(0, 10**6), st.integers(1, 60), st.data())
def test_the_thumb_lies_within_the_bar(length, page, data):
    view = Viewport(top=data.draw(st.integers(0, max(0, length - 1))), page=page)

    thumb = view.thumb(length)

    if length <= page:
        assert thumb is None
    else:
        assert 0 <= thumb[0] < thumb[1] <= page


def test_the_thumb_reaches_both_ends():
    assert Viewport(top=0, page=10).thumb(100) == (0, 1)
    assert Viewport(top=90, page=10).thumb(100) == (9, 10)
