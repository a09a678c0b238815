"""Text from disk, made safe to print: no control characters, bounded length."""

_MAX_CHARACTERS = 200
MAX_PATH_CHARACTERS = 4096


def visible(text: str | bytes, limit: int = _MAX_CHARACTERS) -> str:
    """Return text in which every character can be seen, cut after `limit`.

    Control characters, lone surrogates and undecodable bytes become escapes,
    so that a name on disk cannot move the cursor of who reads about it.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text[:limit]
    )
    return shown if len(text) <= limit else shown + "…"


def hexadecimal(data: bytes) -> str:
    """Return bytes as `50 4b 03 04`, or `nothing`."""
    return data.hex(" ") if data else "nothing"


def plural(count: int, noun: str) -> str:
    """Return `1 byte`, `1,310,720 bytes`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
