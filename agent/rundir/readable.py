"""Texts that JSON can hold, of those that a system gives.

A name on disk, an argument or a variable need not be UTF-8. Python keeps such
bytes as halves of surrogate pairs, which no encoder takes.
"""

from typing import Any, TypeVar, cast

_Value = TypeVar("_Value")


def readable(value: _Value) -> _Value:
    r"""Return a text with escapes for what is none, and likewise all texts in a value.

    Two names on disk stay two: the byte 0xe9 becomes `\udce9`.

    Args:
        value: Of plain types; what is in other types than lists, tuples and
            dictionaries is left as it is.
    """
    made: Any = value
    if isinstance(made, str):
        made = made.encode(errors="backslashreplace").decode()
    elif type(made) is dict:
        made = {readable(key): readable(one) for key, one in made.items()}
    elif type(made) is list:
        made = [readable(one) for one in made]
    elif type(made) is tuple:
        made = tuple(readable(one) for one in made)
    return cast("_Value", made)
