"""The digests that a manifest may name, computed while bytes stream past."""

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

import blake3

_NAMED = re.compile(r"([a-z0-9-]+):([0-9a-f]{16,128})")
_HEX_DIGITS = 64
"""Of BLAKE3 and SHA-256 alike."""


class Hasher(Protocol):
    """A running hash; `update` releases the GIL on large pieces."""

    def update(self, data: memoryview, /) -> object:
        """Take in the next bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of everything so far, in hex."""
        ...


_HASHERS: dict[str, Callable[[], Hasher]] = {
    "blake3": blake3.blake3,
    "sha256": hashlib.sha256,
}


def new_hasher(digest: str) -> Hasher | None:
    """Return a fresh hasher of the kind that a digest names.

    Args:
        digest: `blake3:<64 hex digits>` or `sha256:<64 hex digits>`.

    Returns:
        None for a kind that this version does not know.

    Raises:
        ValueError: it is not written as a digest at all.
    """
    match = _NAMED.fullmatch(digest)
    if match is None:
        raise ValueError(f"`{digest[:80]}` is not a digest")
    make = _HASHERS.get(match[1])
    if make and len(match[2]) != _HEX_DIGITS:
        raise ValueError(f"`{digest}` is not a digest")
    return make() if make else None


def hex_part(digest: str) -> str:
    """Return what follows the colon of a digest."""
    return digest.partition(":")[2]
