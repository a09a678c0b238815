"""Write a round to a file that other programs read: `.pt` or `.safetensors`.

Files appear whole or not at all. A `.safetensors` file is streamed chunk by
chunk, so it needs no memory for the model; `torch.save` needs the model once.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from agent.rundir.atomic import fsync_directory
from agent.rundir.chunks.errors import NoSuchTensorError
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import TRANSIENT_BUFFER, TensorRow
from agent.rundir.errors import RunDirError
from trainer.chunks.restore import iter_pieces, load_names, select_names

# Source: https://github.com/huggingface/safetensors, "Format"
_SAFETENSORS_DTYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}

_ALIGNMENT = 8


class CannotExportError(RunDirError):
    """The file's format cannot hold what the round holds, or has no such name."""


def export_round(
    reader: ChunkStoreReader,
    round_num: int,
    to: Path,
    pattern: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> int:
    """Write a round's `state_dict`, whole or by shell pattern.

    Transient buffers are left out, as a `state_dict` does, unless a pattern
    names them.

    Args:
        reader: the node's store.
        round_num: which round.
        to: ends in `.pt` or `.safetensors`.
        pattern: shell pattern over names; None for all.
        mapping: stored name to the name in the file; others keep theirs.

    Returns:
        How many tensors were written.

    Raises:
        CannotExportError: `to` ends neither in `.pt` nor in `.safetensors`,
            cannot be written, or the format lacks a dtype.
        NoSuchRoundError, NoSuchTensorError: the store does not hold it.
        MissingChunkError, DamagedChunkError: nothing was written.
    """
    writers = {".pt": _write_pt, ".pth": _write_pt, ".safetensors": _write_safetensors}
    writer = writers.get(to.suffix)
    if writer is None:
        raise CannotExportError(f"`{to}` ends neither in `.pt` nor in `.safetensors`")
    layout = reader.layout(round_num)
    names = select_names(layout, pattern)
    if pattern is None:
        transient = {t.name for t in layout.tensors if t.kind == TRANSIENT_BUFFER}
        names = [name for name in names if name not in transient]
    writer(reader, round_num, layout, _renamed(names, mapping or {}), to)
    return len(names)


def _renamed(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return stored name to name in the file.

    Raises:
        NoSuchTensorError: the mapping names a tensor that is not written.
        CannotExportError: two tensors would have the same name.
    """
    for name in mapping:
        if name not in names:
            raise NoSuchTensorError(f"`{name}` is not among what would be written")
    renamed = {name: mapping.get(name, name) for name in names}
    if len(set(renamed.values())) != len(renamed):
        raise CannotExportError("two tensors would have the same name in the file")
    return renamed


def write_state_dict(tensors: Mapping[str, Tensor], to: Path) -> None:
    """Write tensors with `torch.save`, durably.

    Raises:
        CannotExportError: the file cannot be written.
    """
    write_whole(to, lambda file: torch.save(dict(tensors), file))


def write_whole(to: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill a file that appears under its name when it is whole.

    Raises:
        CannotExportError: the file cannot be written; what was there stays.
    """
    partial = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(to)
        fsync_directory(to.parent)
    except OSError as error:
        raise CannotExportError(
            f"`{to}` cannot be written: {error.strerror}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_pt(
    reader: ChunkStoreReader,
    round_num: int,
    layout: RoundLayout,
    names: Mapping[str, str],
    to: Path,
) -> None:
    tensors = load_names(reader, round_num, layout, list(names))
    write_state_dict({names[name]: tensor for name, tensor in tensors.items()}, to)


def _write_safetensors(
    reader: ChunkStoreReader,
    round_num: int,
    layout: RoundLayout,
    names: Mapping[str, str],
    to: Path,
) -> None:
    rows = {row.name: row for row in layout.tensors}
    header, places = _safetensors_header(
        {new: rows[name] for name, new in names.items()}
    )
    needed = [c for c in layout.chunks if any(p.name in places for p in c.parts)]

    def write(file: IO[bytes]) -> None:
        file.write(header)
        for spec, data in reader.iter_chunks(round_num, needed):
            for row, start, piece in iter_pieces(spec, data, rows):
                for place in places.get(row.name, ()):
                    file.seek(len(header) + place + start)
                    file.write(piece)
            # Else it would be held until the next one is read beside it.
            del data, piece
        file.truncate(len(header) + sum(rows[name].num_bytes for name in names))

    write_whole(to, write)


def _safetensors_header(
    rows: Mapping[str, TensorRow],
) -> tuple[bytes, dict[str, list[int]]]:
    """Return the header, and where in the file each stored tensor's bytes go.

    Tied tensors are written once per name: the format forbids overlaps.
    """
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places: dict[str, list[int]] = {}
    end = 0
    for name, row in rows.items():
        start, end = end, end + row.num_bytes
        table[name] = {
            "dtype": _safetensors_dtype(row),
            "shape": row.shape,
            "data_offsets": [start, end],
        }
        places.setdefault(row.alias_of or row.name, []).append(start)
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, places


def _safetensors_dtype(row: TensorRow) -> str:
    name = _SAFETENSORS_DTYPES.get(row.dtype)
    if name is None or row.quantizer is not None:
        raise CannotExportError(
            f"`.safetensors` cannot hold `{row.name}`: it is {row.dtype}",
            hint="write a `.pt` file instead",
        )
    return name
