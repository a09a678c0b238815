"""Names that an operator types for tensors."""

import pytest

from opsdash.operations.renaming import parse_pair, parse_pairs


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("  ", {}),
        ("head.weight=out.weight", {"head.weight": "out.weight"}),
        (" a=b  c=d ", {"a": "b", "c": "d"}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_pairs_stand_with_blanks_between_them(text, found):
    assert parse_pairs(text) == found


@pytest.mark.parametrize("text", ["a", "a=", "=b", "=", ""])
def test_half_a_pair_is_none(text):
    with pytest.raises(ValueError, match="is not of the form OLD=NEW"):
        parse_pair(text)


def test_one_name_gets_no_two():
    with pytest.raises(ValueError, match="`a` is given two names: `b` and `c`"):
        parse_pairs("a=b a=c")
