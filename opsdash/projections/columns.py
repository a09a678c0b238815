"""A column of whole numbers, as narrow as what it holds."""

from array import array


def appended(column: "array[int]", value: int) -> "array[int]":
    """Return the column with one value more; it is another one if it had to widen.

    What a run writes fits four bytes; what somebody else left there may not.

    Args:
        column: Of a type that holds integers, at most `q`.
        value: Of at most 64 bits.
    """
    try:
        column.append(value)
    except OverflowError:
        column = array("q", column)
        column.append(value)
    return column
