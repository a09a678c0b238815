"""Export a round of a foreign database, in a process of its own.

The pickles are read by `trainer.chunks.unpickle`, which executes nothing; the
process around it has bounded memory and time, so that a pickle made to waste
either ends that process and no other.
"""

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agent.rundir.chunks.errors import ChunkPlace, MissingChunkError
from agent.rundir.chunks.foreign import ForeignStoreReader
from agent.rundir.chunks.records import ChunkRow
from agent.rundir.chunks.sources import run_dir_of
from agent.rundir.errors import EXIT_INTERNAL, RunDirError, UnreadableFileError
from trainer.chunks.export import write_state_dict
from trainer.chunks.unpickle import NotAnArrayError, load_array

TIMEOUT_S = 600.0

_BASE_MEMORY_BYTES = 8 << 30
"""Address space of a process with torch; hardly any of it is used."""

_MEMORY_PER_BYTE = 8
"""Of the database's size: pickle, array, promoted array, tensor, file."""

_COUNTER = "num_batches_tracked"
"""BatchNorm's int64 buffer, which the original stored among floats."""


def export_foreign(path: Path, round_num: int, to: Path) -> int:
    """Write a round of a foreign database as a `.pt` file of tensors.

    Returns:
        How many tensors were written.

    Raises:
        UnreadableFileError: a chunk is missing or damaged, holds something
            other than an array, or reading it took too long or too much.
    """
    command = [sys.executable, "-m", "trainer.chunks.foreign"]
    arguments = [str(path.resolve()), str(round_num), str(to.resolve())]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [*command, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise UnreadableFileError(
            f"reading `{path}` took more than {TIMEOUT_S:.0f} s"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended {done.returncode}"]
        raise UnreadableFileError(f"`{path}` was not exported: {lines[-1]}")
    return int(json.loads(done.stdout)["num_tensors"])


def _environment() -> dict[str, str]:
    """Return an environment in which the other process finds this package."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def load_foreign(reader: ForeignStoreReader, round_num: int) -> dict[str, Tensor]:
    """Return the tensors of a round, in this process.

    The original joined tensors of different dtypes into one array per chunk.
    A tensor comes back as `float32` wherever that holds every value exactly,
    and BatchNorm's counters as `int64`.

    Raises:
        MissingChunkError: a chunk is not there, or parts of a tensor are not.
        DamagedChunkError: a pickle does not have its digest.
        NotAnArrayError: a pickle holds something else than an array.
    """
    chunks = reader.chunks(round_num)
    shapes = _covered_shapes(reader, chunks)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for chunk in chunks:
        flat = load_array(reader.pickle_of(chunk)).reshape(-1)
        if flat.size != sum(part.flat_end - part.flat_start for part in chunk.parts):
            raise NotAnArrayError(f"chunk {chunk.chunk_id} contradicts its parts")
        at = 0
        for part in chunk.parts:
            piece = flat[at : at + part.flat_end - part.flat_start]
            at += piece.size
            array = _room_for(arrays.get(part.name), part.shape, piece.dtype)
            array[part.flat_start : part.flat_end] = piece
            arrays[part.name] = array
    return {name: _tensor(name, a.reshape(shapes[name])) for name, a in arrays.items()}


def _covered_shapes(
    reader: ForeignStoreReader, chunks: Sequence[ChunkRow]
) -> dict[str, tuple[int, ...]]:
    """Return shapes by name once it is sure that no element is left out."""
    ranges: dict[str, list[tuple[int, int, ChunkRow]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for chunk in chunks:
        for part in chunk.parts:
            if shapes.setdefault(part.name, part.shape) != part.shape:
                raise NotAnArrayError(f"`{part.name}` has two shapes")
            found = (part.flat_start, part.flat_end, chunk)
            ranges.setdefault(part.name, []).append(found)
    for name, found_ranges in ranges.items():
        end, chunk = 0, chunks[0]
        for start, stop, chunk in sorted(found_ranges, key=lambda found: found[:2]):
            if start != end:
                raise _incomplete(reader, name, chunk)
            end = stop
        if end != math.prod(shapes[name]):
            raise _incomplete(reader, name, chunk)
    return shapes


def _room_for(
    array: npt.NDArray[Any] | None, shape: Sequence[int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    if array is None:
        return np.zeros(math.prod(shape), dtype=dtype)
    return array.astype(np.promote_types(array.dtype, dtype), copy=False)


def _tensor(name: str, array: npt.NDArray[Any]) -> Tensor:
    if name.rsplit(".", 1)[-1] == _COUNTER:
        array = array.astype(np.int64)
    elif array.dtype == np.float64:
        narrow = array.astype(np.float32)
        if np.array_equal(narrow, array, equal_nan=True):
            array = narrow
    native = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(native)


def _incomplete(
    reader: ForeignStoreReader, name: str, chunk: ChunkRow
) -> MissingChunkError:
    place = ChunkPlace(reader.node, chunk.round_num, None, (name,), chunk.digest)
    return MissingChunkError(
        place, f"leaves a gap in `{name}` beside it", (), run_dir_of(reader.path)
    )


def _bound_memory(path: Path) -> None:
    room = _BASE_MEMORY_BYTES + _MEMORY_PER_BYTE * path.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        room = min(room, hard)
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))


def _main(arguments: Sequence[str]) -> int:
    path, round_num, to = Path(arguments[0]), int(arguments[1]), Path(arguments[2])
    _bound_memory(path)
    try:
        with ForeignStoreReader(path) as reader:
            tensors = load_foreign(reader, round_num)
        write_state_dict(tensors, to)
    except RunDirError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except MemoryError:
        sys.stderr.write("it asks for more memory than a sound one needs\n")
        return EXIT_INTERNAL
    sys.stdout.write(json.dumps({"num_tensors": len(tensors)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
