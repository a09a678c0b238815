"""The rows of a chunk store as values, and the digest that identifies a chunk.

A chunk's digest is SHA-256 over its dtype, a zero byte and its plain bytes.
What is decoded here comes from a disk or a peer: it is checked, never
trusted, and whatever does not fit is a `ValueError` or `TypeError`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.rundir.chunks.schema import MIXED_DTYPE

if TYPE_CHECKING:
    import hashlib

PARAMETER = "parameter"
BUFFER = "buffer"
TRANSIENT_BUFFER = "transient_buffer"
"""A buffer that is not part of the `state_dict` (`persistent=False`)."""
OPTIMIZER = "optimizer"
KINDS = frozenset({PARAMETER, BUFFER, TRANSIENT_BUFFER, OPTIMIZER})

_DIGEST = re.compile(r"[0-9a-f]{64}")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Part:
    """A range of one tensor inside a chunk."""

    name: str
    dtype: str
    """torch's name without the prefix: `float32`, `bfloat16` …"""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    flat_start: int
    """First element, counted in the contiguous tensor as it is stored."""
    flat_end: int
    """One past the last element."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a round."""

    name: str
    kind: str
    """`parameter`, `buffer`, `transient_buffer` or `optimizer`."""
    dtype: str
    shape: tuple[int, ...]
    item_bytes: int
    """Bytes of one stored element; packed dtypes count whole bytes."""
    num_bytes: int
    alias_of: str | None = None
    """The tensor whose memory this one shares (tied weights)."""
    quantizer: str | None = None
    """JSON: scale, zero point and scheme of a quantized tensor."""

    @property
    def num_items(self) -> int:
        """Stored elements: what parts count."""
        return self.num_bytes // self.item_bytes


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """One chunk of a round: what it holds and under which digest."""

    chunk_id: int
    digest: str
    dtype: str
    """That of its parts; `mixed` if they differ, empty without parts."""
    size_bytes: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round as a list shows it."""

    round_num: int
    created_ns: int
    """Wall clock when it was stored, Unix ns."""
    digest: str
    """Of the round's layout: equal digests mean the same model, bit for bit."""
    split: str
    num_chunks: int
    num_bytes: int
    new_bytes: int
    """Bytes that no earlier round held when this one was stored."""
    num_tensors: int
    nonfinite: tuple[str, ...]
    """Tensors with a NaN or an infinity."""
    members: tuple[str, ...] | None
    """Whose updates the round was made of; None where that has no meaning."""
    has_optimizer: bool
    num_damaged: int | None = None
    """Chunks whose bytes are wrong; None until this reader has verified."""
    num_missing: int | None = None
    """Chunks that are not there; None until this reader has verified."""

    @property
    def shared_bytes(self) -> int:
        """Bytes that were there already."""
        return self.num_bytes - self.new_bytes

    @property
    def has_nonfinite(self) -> bool:
        """Whether any tensor holds a NaN or an infinity."""
        return bool(self.nonfinite)


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One chunk of a round as a list shows it."""

    round_num: int
    chunk_id: int
    digest: str
    size_bytes: int
    shared_with: int
    """Number of other rounds of this node that hold the same bytes."""
    parts: tuple[Part, ...]
    is_missing: bool
    is_damaged: bool | None = None
    """None until this reader has verified."""


def chunk_digest(dtype: str, pieces: Iterable[Buffer]) -> str:
    """Return the SHA-256 under which a chunk is kept, as 64 hex digits."""
    hasher = chunk_hasher(dtype)
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def chunk_hasher(dtype: str) -> "hashlib._Hash":
    """Return a SHA-256 that a chunk's plain bytes are still to be put into."""
    from hashlib import sha256  # noqa: PLC0415 - 3 MB of OpenSSL that looking at rows can do without

    return sha256(dtype.encode() + b"\0")


def chunk_dtype(parts: Sequence[Part]) -> str:
    """Return the dtype that a chunk with these parts is hashed under."""
    names = {part.dtype for part in parts}
    if len(names) > 1:
        return MIXED_DTYPE
    return names.pop() if names else ""


def is_digest(text: str) -> bool:
    """Whether `text` has the form of a chunk's digest."""
    return _DIGEST.fullmatch(text) is not None


def encode_parts(parts: Sequence[Part]) -> str:
    """Return `parts_info`: `{name: [[flat_start, flat_end, shape, dtype], …]}`."""
    table: dict[str, list[object]] = {}
    for part in parts:
        row = [part.flat_start, part.flat_end, part.shape, part.dtype]
        table.setdefault(part.name, []).append(row)
    return encode_json(table)


def decode_parts(text: str) -> tuple[Part, ...]:
    """Read `parts_info`; rows of three, without a dtype, are the original's.

    Raises:
        ValueError, TypeError: it is something else.
    """
    table = json.loads(text)
    if not isinstance(table, dict):
        raise TypeError("parts are not a table")
    return tuple(_part(name, row) for name, rows in table.items() for row in rows)


def encode_json(value: Mapping[str, object] | Sequence[object]) -> str:
    """Return compact JSON for a column."""
    return json.dumps(value, separators=(",", ":"))


def decode_names(text: str) -> tuple[str, ...]:
    """Read a JSON list of names.

    Raises:
        ValueError, TypeError: it is something else.
    """
    names = json.loads(text)
    if not isinstance(names, list):
        raise TypeError("names are not a list")
    return tuple(as_text(name) for name in names)


def as_shape(value: object) -> tuple[int, ...]:
    """Return a shape from JSON.

    Raises:
        TypeError, ValueError: not a list of non-negative whole numbers.
    """
    if not isinstance(value, list):
        raise TypeError("a shape is not a list")
    return tuple(as_count(size) for size in value)


def as_text(value: object) -> str:
    """Return `value` if it is text.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def as_text_or_none(value: object) -> str | None:
    """Return `value` if it is text or None.

    Raises:
        TypeError: it is neither.
    """
    return None if value is None else as_text(value)


def as_count(value: object) -> int:
    """Return `value` if it is a whole number from 0.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _part(name: str, row: Sequence[Any]) -> Part:
    start, end, shape, *dtype = row
    return Part(
        name=name,
        dtype=as_text(dtype[0]) if dtype else "",
        shape=as_shape(shape),
        flat_start=as_count(start),
        flat_end=as_count(end),
    )
