"""Rows in another order: like `sorted`, but a slice at a time and beside the screen."""

import threading
from array import array
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from opsdash.screens import row_order as module
from opsdash.screens.row_order import RowOrder

PATIENCE_S = 60


def made(order):
    order._thread.join(PATIENCE_S)
    found = order.take()
    assert found is not None
    return found


@given(
    st.lists(st.integers(0, 2**62) | st.integers(0, 3), max_size=60),
    st.booleans(),
    st.data(),
)
def test_it_is_the_order_that_sorted_gives(keys, is_descending, data):
    ids = array("q", [i for i in range(len(keys)) if data.draw(st.booleans())])

    order = made(RowOrder(ids, array("q", keys), is_descending=is_descending))

    wanted = sorted(ids, key=keys.__getitem__, reverse=is_descending)
    assert list(order.ids) == wanted
    assert [order.find(i) for i in wanted] == list(range(len(wanted)))
    assert sum(place < 0 for place in order.places) == len(keys) - len(ids)


def test_ids_may_begin_anywhere():
    order = made(RowOrder([7, 8, 9], [5, 3, 4], is_descending=False, first=7))

    assert list(order.ids) == [8, 9, 7]
    assert [order.find(i) for i in (6, 7, 8, 9, 10)] == [None, 2, 0, 1, None]


def test_others_have_their_turn_while_many_rows_are_sorted(monkeypatch):
    turns = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=turns.append))

    made(RowOrder(range(100_000), range(100_000), is_descending=True))

    passes = 2  # ids of this size have two digits
    assert len(turns) == (passes + 1) * 100_000 // module._SLICE


def test_an_order_that_nobody_wants_is_given_up(monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()

    def sleep(_):
        begun.set()
        may_go_on.wait(PATIENCE_S)

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
    order = RowOrder(range(50_000), range(50_000), is_descending=True)
    assert begun.wait(PATIENCE_S)

    order.stop()
    may_go_on.set()
    order._thread.join(PATIENCE_S)

    assert not order._thread.is_alive()
    assert order.take() is None
