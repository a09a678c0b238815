import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdash.widgets.rows import (
    Cell,
    Column,
    FixedRows,
    next_order,
    place_near,
    widths,
)

COLUMNS = st.lists(
    st.builds(Column, st.just("x"), st.integers(1, 20), flex=st.integers(0, 3)),
    min_size=1,
    max_size=8,
)


class Numbers:
    """Rows that cannot be searched by key."""

    def __init__(self, keys):
        self.keys = keys

    def __len__(self):
        return len(self.keys)

    def row(self, index):
        return (Cell(str(self.keys[index])),)

    def key(self, index):
        return self.keys[index]


@given(COLUMNS, st.integers(0, 200))
def test_columns_fill_the_room_or_keep_their_widths(columns, room):
    result = widths(columns, room)

    least = [column.width for column in columns]
    needed = sum(least) + len(columns) - 1
    if any(column.flex for column in columns) and room > needed:
        assert sum(result) + len(columns) - 1 == room
    else:
        assert result == least
    assert all(
        given_width >= column.width and (column.flex or given_width == column.width)
        for given_width, column in zip(result, columns, strict=True)
    )


def test_what_is_left_over_goes_by_shares():
    columns = [Column("a", 2, flex=1), Column("b", 2), Column("c", 2, flex=2)]

    assert widths(columns, 17) == [5, 2, 8]


@pytest.mark.parametrize(
    ("now", "following"), [(None, "a"), ("a", "c"), ("c", "a"), ("gone", "a")]
)
def test_the_next_order_skips_columns_that_cannot_be_sorted(now, following):
    columns = [Column("A", 1, key="a"), Column("b", 1, sortable=False), Column("c", 1)]

    assert next_order(columns, now) == following


def test_without_a_sortable_column_there_is_no_order():
    assert next_order([Column("a", 1, sortable=False)], None) is None


def test_fixed_rows_are_found_by_key():
    rows = FixedRows([("a", (Cell("1"),)), ("b", (Cell("2"),))])

    assert len(rows) == 2
    assert rows.key(1) == "b"
    assert rows.row(1) == (Cell("2"),)
    assert place_near(rows, "b", 0) == 1
    assert place_near(rows, "c", 0) is None


def test_a_model_that_finds_rows_is_asked_however_far_they_went():
    rows = FixedRows((key, ()) for key in range(50_000))

    assert place_near(rows, 49_999, 0) == 49_999


@given(st.permutations(range(30)), st.integers(0, 29), st.integers(-5, 40))
def test_a_row_is_found_near_where_it_was(keys, key, where):
    assert place_near(Numbers(keys), key, where) == keys.index(key)


def test_a_row_that_is_gone_or_far_away_is_not_found():
    assert place_near(Numbers(list(range(100))), 100, 50) is None
    assert place_near(Numbers(list(range(100))), 99, 0, reach=10) is None
    assert place_near(Numbers([]), 1, 0) is None


def test_looking_for_a_row_costs_a_bounded_number_of_rows():
    asked = []

    class Many(Numbers):
        def __len__(self):
            return 1_000_000

        def key(self, index):
            asked.append(index)
            return index

    assert place_near(Many([]), "gone", 500_000) is None
    assert len(asked) < 10_000
