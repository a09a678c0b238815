"""`ChunkManager`, under the names by which the idea is known, over our store.

The methods are those of FederatedScope's ChunkManager, with the differences
that make them safe: tensors instead of NumPy arrays (any dtype), errors
instead of empty lists, buffers restored too, and a round in one transaction.
New code uses `trainer.chunks.store.ChunkStore`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

import torch
from torch import Tensor, nn

from agent.rundir.chunks.reader import StoreStats
from agent.rundir.chunks.records import (
    PARAMETER,
    Buffer,
    ChunkSpec,
    Part,
    TensorRow,
    chunk_dtype,
)
from agent.rundir.layout import RunDir
from trainer.chunks.fit import load_into
from trainer.chunks.retention import DEFAULT_KEEP_ROUNDS
from trainer.chunks.snapshot import model_tensors
from trainer.chunks.split import DEFAULT_CHUNK_NUM, FlatSplit
from trainer.chunks.store import ChunkStore
from trainer.chunks.tensors import byte_view, dtype_name, parse_dtype, settle

Parts = dict[str, list[tuple[int, int, tuple[int, ...]]]]


class ChunkInfo(TypedDict):
    """What a chunk holds, as the original describes it."""

    chunk_id: int
    parts: Parts
    """Name to `(flat_start, flat_end, shape)`."""
    flat_size: int
    """Elements in the chunk."""


class ChunkManager:
    """Saves a node's model round by round, in an even flat split."""

    def __init__(
        self,
        client_id: int | str,
        run_dir: Path,
        *,
        chunk_num: int = DEFAULT_CHUNK_NUM,
        chunk_keep_rounds: int = DEFAULT_KEEP_ROUNDS,
    ) -> None:
        """Open `RUN_DIR/chunks/<node>/<node>_chunks.db`, or make it.

        Args:
            client_id: a number `n` stands for the node `client-<n>`.
            run_dir: the run's directory.
            chunk_num: into how many chunks a model is cut.
            chunk_keep_rounds: how many rounds stay.

        Raises:
            RunDirError: the store cannot be opened; see `ChunkStore`.
        """
        node = f"client-{client_id}" if isinstance(client_id, int) else client_id
        self.chunk_num = chunk_num
        self.chunk_keep_rounds = chunk_keep_rounds
        self.store = ChunkStore.open(RunDir(run_dir).chunk_store(node), node=node)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; closing twice is fine."""
        self.store.close()

    @staticmethod
    def model_to_params(model: nn.Module) -> dict[str, Tensor]:
        """Return a model's parameters and buffers, detached, on the CPU."""
        tensors = model_tensors(model).tensors
        return {name: settle(tensor, name) for name, tensor in tensors.items()}

    @staticmethod
    def params_to_model(params: Mapping[str, Tensor], model: nn.Module) -> None:
        """Copy parameters and buffers into a model, all or nothing.

        Raises:
            CannotFitError: names, shapes or dtypes do not fit.
        """
        load_into(model, params)

    @staticmethod
    def split_model(
        params: Mapping[str, Tensor], num_chunks: int = DEFAULT_CHUNK_NUM
    ) -> list[ChunkInfo]:
        """Cut a model evenly over a flat index of all its elements.

        Chunks may be empty: there are always `num_chunks`.
        """
        rows = [_row(name, tensor) for name, tensor in params.items()]
        return [
            _chunk_info(chunk_id, parts)
            for chunk_id, parts in enumerate(FlatSplit(num_chunks).cut(rows))
        ]

    @staticmethod
    def extract_chunk_data(
        params: Mapping[str, Tensor], chunk_info: ChunkInfo
    ) -> Tensor:
        """Return a chunk's elements in a row.

        Returns:
            `(flat_size,)` of the chunk's dtype, or its bytes as `uint8` if its
            parts have several; `(0,) float32` for an empty chunk.

        Raises:
            KeyError: a part's tensor is not among `params`.
        """
        pieces = [
            params[name].reshape(-1)[start:end]
            for name, ranges in chunk_info["parts"].items()
            for start, end, _ in ranges
        ]
        if len({piece.dtype for piece in pieces}) > 1:
            pieces = [piece.view(torch.uint8) for piece in pieces]
        return torch.cat(pieces) if pieces else torch.empty(0)

    def save_model_chunks(
        self, model: nn.Module, round_num: int, num_chunks: int | None = None
    ) -> list[str]:
        """Store a model as a round and drop rounds beyond `chunk_keep_rounds`.

        Returns:
            The digest of each chunk.

        Raises:
            RunDirError: it was not stored; see `ChunkStore.put_round`.
        """
        found = model_tensors(model)
        self.store.put_round(
            round_num,
            found.tensors,
            buffers=found.buffers,
            transient=found.transient,
            keep_rounds=self.chunk_keep_rounds,
            split=FlatSplit(self.chunk_num if num_chunks is None else num_chunks),
            replace=True,
        )
        return [chunk.digest for chunk in self.store.layout(round_num).chunks]

    def load_chunks_by_round(self, round_num: int) -> list[tuple[ChunkInfo, Tensor]]:
        """Return a round's chunks, every digest checked.

        Returns:
            Descriptions with their elements, as `extract_chunk_data` has them.

        Raises:
            NoSuchRoundError, MissingChunkError, DamagedChunkError: naming what.
        """
        with self.store.reader() as reader:
            layout = reader.layout(round_num)
            return [
                (_chunk_info(spec.chunk_id, spec.parts), _elements(spec, data))
                for spec, data in reader.iter_chunks(round_num, layout.chunks)
            ]

    def get_chunk_by_id(
        self, round_num: int, chunk_id: int
    ) -> tuple[ChunkInfo, Tensor]:
        """Return one chunk of a round, its digest checked.

        Raises:
            IndexError: the round has no such chunk.
            NoSuchRoundError, MissingChunkError, DamagedChunkError: naming what.
        """
        with self.store.reader() as reader:
            spec = reader.layout(round_num).chunks[chunk_id]
            ((_, data),) = reader.iter_chunks(round_num, [spec])
        return _chunk_info(spec.chunk_id, spec.parts), _elements(spec, data)

    def reconstruct_model_from_chunks(
        self,
        round_num: int,
        target_model: nn.Module,
        mapping: Mapping[str, str] | None = None,
    ) -> bool:
        """Copy a round into a model: parameters and buffers, bit for bit.

        Returns:
            True; what the original answers with False is an error here.

        Raises:
            NoSuchRoundError, MissingChunkError, DamagedChunkError: naming what.
            CannotFitError: the model is not the one that was stored.
        """
        load_into(target_model, self.store.get_round(round_num), mapping)
        return True

    def get_storage_stats(self) -> StoreStats:
        """Return counts and sizes.

        Raises:
            RunDirError: the store cannot be read.
        """
        return self.store.stats()

    def cleanup_old_rounds(self, keep_rounds: int | None = None) -> tuple[int, ...]:
        """Keep the newest rounds only; return those that were dropped.

        Raises:
            ValueError: nothing would be kept.
            RunDirError: the store cannot be written.
        """
        kept = self.chunk_keep_rounds if keep_rounds is None else keep_rounds
        return self.store.prune(kept).rounds


def _row(name: str, tensor: Tensor) -> TensorRow:
    return TensorRow(
        name=name,
        kind=PARAMETER,
        dtype=dtype_name(tensor.dtype),
        shape=tuple(tensor.shape),
        item_bytes=tensor.element_size(),
        num_bytes=tensor.numel() * tensor.element_size(),
    )


def _chunk_info(chunk_id: int, parts: Sequence[Part]) -> ChunkInfo:
    table: Parts = {}
    for part in parts:
        place = (part.flat_start, part.flat_end, part.shape)
        table.setdefault(part.name, []).append(place)
    size = sum(part.flat_end - part.flat_start for part in parts)
    return {"chunk_id": chunk_id, "parts": table, "flat_size": size}


def _elements(spec: ChunkSpec, data: Buffer) -> Tensor:
    dtypes = {part.dtype for part in spec.parts}
    dtype: Any = torch.uint8
    if len(dtypes) == 1:
        dtype = parse_dtype(chunk_dtype(spec.parts))
    elif not dtypes:
        dtype = torch.float32
    tensor = torch.empty(len(data) // dtype.itemsize, dtype=dtype)
    byte_view(tensor)[:] = data
    return tensor
