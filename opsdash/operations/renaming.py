"""Tensors that get another name, as an operator types them: `old=new`."""


def parse_pair(text: str) -> tuple[str, str]:
    """Return the name that is stored, and the one it gets.

    Raises:
        ValueError: it is not of that form; the message says so.
    """
    old, separator, new = text.partition("=")
    if not (old and separator and new):
        raise ValueError(f"`{text}` is not of the form OLD=NEW")
    return old, new


def parse_pairs(text: str) -> dict[str, str]:
    """Return new names by old ones, of pairs with blanks between them.

    Raises:
        ValueError: one is not of that form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for old, new in map(parse_pair, text.split()):
        if old in found:
            raise ValueError(f"`{old}` is given two names: `{found[old]}` and `{new}`")
        found[old] = new
    return found
