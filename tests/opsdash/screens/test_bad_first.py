"""Bad chunks stand in front, and every other one where it stood."""

from hypothesis import given
from hypothesis import strategies as st

from opsdash.screens.bad_first import BadFirst

LENGTH = 60


@given(st.sets(st.integers(0, LENGTH - 1)))
def test_bad_ones_come_first_and_each_is_found_again(bad):
    ids = BadFirst(LENGTH)
    for chunk_id in bad:
        ids.add(chunk_id)

    order = [ids.id_at(index) for index in range(LENGTH)]

    good = [chunk_id for chunk_id in range(LENGTH) if chunk_id not in bad]
    assert order == [*sorted(bad), *good]
    assert [ids.find(chunk_id) for chunk_id in order] == list(range(LENGTH))
    assert (ids.bad, ids.num_bad) == (tuple(sorted(bad)), len(bad))


def test_what_is_none_of_them_is_nowhere():
    ids = BadFirst(LENGTH)

    assert (ids.find(LENGTH), ids.find(-1)) == (None, None)
