"""A round without its bytes: what to fetch, and how to put it together again.

The digest of a layout identifies a model: two nodes whose rounds have equal
digests hold bit for bit the same one. Layouts are read from a disk that may
have rotted and from peers, so `check` proves that the parts cover every
tensor exactly once: a gap would otherwise come back as zeros.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.rundir.chunks.errors import EXIT_DAMAGED
from agent.rundir.chunks.records import (
    KINDS,
    ChunkSpec,
    Part,
    TensorRow,
    as_count,
    as_shape,
    as_text,
    as_text_or_none,
    chunk_dtype,
    is_digest,
)
from agent.rundir.errors import UnreadableFileError


class BadLayoutError(UnreadableFileError):
    """A layout does not describe a model: it is damaged or made up."""

    exit_code = EXIT_DAMAGED


@dataclass(frozen=True, slots=True)
class RoundLayout:
    """All of a round but its bytes."""

    split: str
    """`tensor:<bytes>` or `flat:<chunks>`."""
    tensors: tuple[TensorRow, ...]
    chunks: tuple[ChunkSpec, ...]
    optimizer: str | None = None
    """JSON of the optimizer's state around its tensors."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all chunks, shared ones counted as often as they occur."""
        return sum(chunk.size_bytes for chunk in self.chunks)

    def digest(self) -> str:
        """Return what identifies this model: names, dtypes, shapes and bytes."""
        from hashlib import sha256  # noqa: PLC0415 - 3 MB of OpenSSL that looking at rows can do without

        return sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the canonical text: equal layouts give equal text."""
        return json.dumps(
            {
                "chunks": [_chunk_fields(chunk) for chunk in self.chunks],
                "optimizer": self.optimizer,
                "split": self.split,
                "tensors": [_tensor_fields(row) for row in self.tensors],
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "RoundLayout":
        """Read what `to_json` wrote, from whoever sent it.

        Raises:
            BadLayoutError: it is not a layout, or does not cover its tensors.
        """
        try:
            data = json.loads(text)
            layout = cls(
                split=as_text(data["split"]),
                tensors=tuple(_tensor_row(row) for row in data["tensors"]),
                chunks=tuple(_chunk_spec(row) for row in data["chunks"]),
                optimizer=as_text_or_none(data["optimizer"]),
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise BadLayoutError(f"the layout cannot be read: {error}") from error
        layout.check()
        return layout

    def check(self) -> None:
        """Make sure that the parts cover every tensor once, without gaps.

        Raises:
            BadLayoutError: naming the tensor or the chunk.
        """
        rows = {row.name: row for row in self.tensors}
        if len(rows) != len(self.tensors):
            raise BadLayoutError("the layout names a tensor twice")
        parts: defaultdict[str, list[Part]] = defaultdict(list)
        for position, chunk in enumerate(self.chunks):
            _check_chunk(position, chunk, rows)
            for part in chunk.parts:
                parts[part.name].append(part)
        for row in self.tensors:
            _check_tensor(row, rows)
            _check_covered(row, parts[row.name])


def _check_chunk(
    position: int, chunk: ChunkSpec, rows: Mapping[str, TensorRow]
) -> None:
    if chunk.chunk_id != position:
        raise BadLayoutError(f"chunk {position} is missing from the layout")
    size_bytes = 0
    for part in chunk.parts:
        row = rows.get(part.name)
        if row is None:
            raise BadLayoutError(f"a chunk holds `{part.name}`, which is no tensor")
        if (part.dtype, part.shape) != (row.dtype, row.shape):
            raise BadLayoutError(f"a part of `{part.name}` contradicts its tensor")
        size_bytes += (part.flat_end - part.flat_start) * row.item_bytes
    if len({part.name for part in chunk.parts}) != len(chunk.parts):
        raise BadLayoutError(f"chunk {position} holds two parts of a tensor")
    if size_bytes != chunk.size_bytes or chunk.dtype != chunk_dtype(chunk.parts):
        raise BadLayoutError(f"chunk {position} contradicts its parts")


def _check_covered(row: TensorRow, parts: list[Part]) -> None:
    end = 0
    for part in sorted(parts, key=lambda part: part.flat_start):
        if part.flat_start != end or part.flat_end <= part.flat_start:
            raise BadLayoutError(f"`{row.name}` has a gap or an overlap at {end}")
        end = part.flat_end
    if end != (0 if row.alias_of is not None else row.num_items):
        raise BadLayoutError(f"`{row.name}` is held up to {end} of {row.num_items}")


def _check_tensor(row: TensorRow, rows: Mapping[str, TensorRow]) -> None:
    if row.item_bytes < 1 or row.num_bytes % row.item_bytes:
        raise BadLayoutError(f"`{row.name}` has no whole number of elements")
    if row.alias_of is None:
        return
    target = rows.get(row.alias_of)
    if target is None or target.alias_of is not None:
        raise BadLayoutError(f"`{row.name}` shares the memory of an unknown tensor")
    if (target.dtype, target.shape) != (row.dtype, row.shape):
        raise BadLayoutError(f"`{row.name}` and `{target.name}` cannot share memory")


def _tensor_fields(row: TensorRow) -> list[object]:
    return [
        row.name,
        row.kind,
        row.dtype,
        row.shape,
        row.item_bytes,
        row.num_bytes,
        row.alias_of,
        row.quantizer,
    ]


def _chunk_fields(chunk: ChunkSpec) -> list[object]:
    parts = [
        [part.name, part.dtype, part.shape, part.flat_start, part.flat_end]
        for part in chunk.parts
    ]
    return [chunk.chunk_id, chunk.digest, chunk.dtype, chunk.size_bytes, parts]


def _tensor_row(row: Sequence[Any]) -> TensorRow:
    name, kind, dtype, shape, item_bytes, num_bytes, alias_of, quantizer = row
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of tensor")
    return TensorRow(
        name=as_text(name),
        kind=kind,
        dtype=as_text(dtype),
        shape=as_shape(shape),
        item_bytes=as_count(item_bytes),
        num_bytes=as_count(num_bytes),
        alias_of=as_text_or_none(alias_of),
        quantizer=as_text_or_none(quantizer),
    )


def _chunk_spec(row: Sequence[Any]) -> ChunkSpec:
    chunk_id, digest, dtype, size_bytes, parts = row
    if not is_digest(as_text(digest)):
        raise ValueError("a digest is not SHA-256 in hex")
    return ChunkSpec(
        chunk_id=as_count(chunk_id),
        digest=digest,
        dtype=as_text(dtype),
        size_bytes=as_count(size_bytes),
        parts=tuple(_part(*part) for part in parts),
    )


def _part(name: object, dtype: object, shape: object, *flat: object) -> Part:
    start, end = flat
    return Part(
        name=as_text(name),
        dtype=as_text(dtype),
        shape=as_shape(shape),
        flat_start=as_count(start),
        flat_end=as_count(end),
    )
