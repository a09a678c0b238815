"""What a server keeps on its own disk: its rounds, and what they were made of.

A round is one transaction: the model, the server's momentum, what the members
gave where that is kept, and the record of who was acknowledged what.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from agent.probes.home import Home
from agent.rundir.chunks.reader import ChunkStoreReader, StoreStats
from agent.rundir.chunks.sources import run_dir_of
from agent.rundir.layout import RunDir
from trainer.chunks.nested import OPTIMIZER_PREFIX
from trainer.chunks.restore import load_names, load_tensors
from trainer.chunks.snapshot import ModelTensors
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore, PutStats
from trainer.federated.config import FederatedConfig
from trainer.federated.ledger import RECORD, Record, encode_record, read_record
from trainer.federated.transfer import ForeignModelError

VELOCITY = "velocity"
UPDATES = "updates"
"""What a round of the server holds where others hold an optimizer's state."""


class StoredModel(NamedTuple):
    """A round as it comes back."""

    tensors: dict[str, Tensor]
    """Of the whole model, buffers included."""
    velocity: dict[str, Tensor]
    """The server's momentum; empty without."""


class ServerStore:
    """The server's store. Methods are called by one thread at a time."""

    def __init__(
        self, path: Path, *, run_id: str, config: FederatedConfig, kinds: ModelTensors
    ) -> None:
        """Open the store, or make it.

        Args:
            path: Of its file.
            run_id: Whose store it has to be.
            config: How rounds are cut, and how many are kept.
            kinds: The model's tensors: what a stored round has to look like.

        Raises:
            RunDirError: it cannot be opened.
        """
        self.path = path
        self._run_id = run_id
        self._config = config
        self._kinds = kinds
        self._home = Home(RunDir(run_dir_of(path)))
        self._store = ChunkStore.open(path)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def require_home(self) -> None:
        """Make sure that the run directory is still this run's.

        Raises:
            LockedError: another run lies there by now.
        """
        self._home.look()

    def record(self) -> Record | None:
        """Return what is known of the newest round; None: there is none.

        Raises:
            RunDirError: it cannot be read, or is another run's.
        """
        return read_record(self._store, self._run_id)

    def load(self, round_num: int) -> StoredModel:
        """Return what the next round is made from.

        What the members gave is left where it is: it may be many times the
        model, and where it is damaged the federation can go on all the same.

        Raises:
            ChunkError, DamagedStoreError: it is not what it was.
            RunDirError: the store cannot be read.
        """
        with self._store.reader() as reader:
            tensors = load_tensors(reader, round_num)
            return StoredModel(tensors, _load_velocity(reader, round_num))

    def older_rounds(self) -> list[int]:
        """Return all rounds but the newest, from the newest to the oldest."""
        return [row.round_num for row in self._store.rounds()][-2::-1]

    def put_round(
        self, record: Record, model: StoredModel, updates: Mapping[str, Any]
    ) -> PutStats:
        """Make a round durable.

        Args:
            record: Which one it is, who was in it, and what is told of it.
            model: What became of their updates.
            updates: What the members gave, by client; empty: it is not kept.

        Raises:
            LockedError: another run lies in the run directory by now.
            RunDirError: it could not be stored.
        """
        self.require_home()
        num_chunks = self._config.chunk_num
        return self._store.put_round(
            record.round_num,
            model.tensors,
            buffers=self._kinds.buffers,
            transient=self._kinds.transient,
            optimizer=_beside(model.velocity, updates),
            members=record.account.members if record.account else (),
            state={RECORD: encode_record(record)},
            keep_rounds=self._config.chunk_keep_rounds,
            split=FlatSplit(num_chunks) if num_chunks else TensorSplit(),
        )

    def stats(self) -> StoreStats:
        """Return counts and sizes, for telemetry."""
        return self._store.stats()

    def refuse_another_model(self, found: Mapping[str, Tensor]) -> None:
        """Make sure that stored tensors are those of the model that is run.

        Raises:
            ForeignModelError: naming the first tensor that differs.
        """
        mine, theirs = _described(self._kinds.tensors), _described(found)
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise ForeignModelError(
                    f"`{self.path}` holds another model: tensor `{name}` is "
                    f"{theirs.get(name, 'not there')}, this configuration makes "
                    f"{mine.get(name, 'none')}",
                    hint="another model is another run: name another directory",
                )


def _load_velocity(reader: ChunkStoreReader, round_num: int) -> dict[str, Tensor]:
    layout = reader.layout(round_num)
    start = f"{OPTIMIZER_PREFIX}{VELOCITY}."
    names = [row.name for row in layout.tensors if row.name.startswith(start)]
    found = load_names(reader, round_num, layout, names)
    return {name.removeprefix(start): tensor for name, tensor in found.items()}


def _beside(
    velocity: Mapping[str, Tensor], updates: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what is stored beside the model, where an optimizer would be."""
    beside = {VELOCITY: velocity, UPDATES: updates}
    return {name: value for name, value in beside.items() if value} or None


def _described(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        for name, tensor in tensors.items()
    }
