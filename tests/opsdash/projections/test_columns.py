"""A column of numbers stays narrow until something does not fit."""

from array import array

import pytest

from opsdash.projections.columns import Ranked, appended


def test_a_column_stays_as_narrow_as_what_it_holds():
    column = array("I")

    for value in (0, 7, 2**32 - 1):
        column = appended(column, value)

    assert (column.typecode, list(column)) == ("I", [0, 7, 2**32 - 1])


@pytest.mark.parametrize(("code", "value"), [("I", 2**32), ("I", -1), ("i", 2**53)])
def test_a_value_that_does_not_fit_widens_it_and_loses_nothing(code, value):
    column = appended(array(code, [1, 2]), value)

    assert (column.typecode, list(column)) == ("q", [1, 2, value])
    assert list(appended(column, 3)) == [1, 2, value, 3]


def test_ids_are_read_as_the_places_of_their_names():
    names = ["zebra", "ape", "lion"]
    places = [sorted(names).index(name) for name in names]

    ranked = Ranked(array("B", [0, 2, 1, 0]), places)

    assert (len(ranked), list(ranked)) == (4, [2, 1, 0, 2])
