"""What a client keeps on its own disk: its rounds, and where it stands.

After local training the whole model and the optimizer's state go into the
client's chunk store, together with a small record of which round was trained
for whom. An acknowledgement changes the record only. A store that fails costs
the durable state, never the training: who calls tells it and goes on.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agent.probes.home import Home
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.reader import StoreStats
from agent.rundir.chunks.records import BUFFER, TRANSIENT_BUFFER
from agent.rundir.chunks.sources import run_dir_of
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore, PutStats
from trainer.federated.config import FederatedConfig
from trainer.federated.local import Construction, LocalModel, LocalState
from trainer.federated.session import Standing, Trained

_BUFFERS = frozenset({BUFFER, TRANSIENT_BUFFER})
_RECORD = "federated.standing"


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A `LocalState` without its tensors, which are in a round of the store."""

    round_num: int
    num_steps: int
    num_examples: int
    has_optimizer: bool
    is_gone: bool = False
    """Whether the optimizer's state was changed since, so that no disk holds it."""
    construction: Construction | None = None
    """Of the optimizer that the stored state is of; None: nobody knows."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """A `Standing` without tensors."""

    run_id: str
    acked_round: int | None
    fresh_round: int
    state: _Kept | None = None
    trained: _Kept | None = None
    trained_attempt: int = 0


class ClientStore:
    """One client's store. Methods are called by one thread at a time."""

    def __init__(self, path: Path, *, run_id: str, config: FederatedConfig) -> None:
        """Open the store, or make it.

        Raises:
            RunDirError: it cannot be opened.
        """
        self._home = Home(RunDir(run_dir_of(path)))
        self._store = ChunkStore.open(path)
        self._run_id = run_id
        self._keep_rounds = config.chunk_keep_rounds
        self._split = FlatSplit(config.chunk_num) if config.chunk_num else TensorSplit()

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def require_home(self) -> None:
        """Make sure that the run directory is still this run's.

        Raises:
            LockedError: another run lies there; training on would be for nothing
                that anybody could find again.
        """
        self._home.look()

    def load_standing(self, local: LocalModel) -> Standing[LocalState]:
        """Return where this client stood; a newcomer's standing if nobody knows.

        A state that cannot be read, or is of another optimizer than `local`'s,
        is as good as lost: the standing then knows of no acknowledged round, and
        the server's record will contradict it.
        """
        record = self._load_record()
        if record is None or record.run_id != self._run_id:
            return Standing()
        trained = self._load_trained(record, local)
        if record.acked_round is None:
            return Standing(fresh_round=record.fresh_round, trained=trained)
        state = self._load_state(record.state, local)
        if record.state is not None and state is None:
            return Standing(trained=trained)
        return Standing(
            acked_round=record.acked_round,
            fresh_round=record.fresh_round,
            state=state,
            trained=trained,
        )

    def put_round(
        self, round_num: int, local: LocalModel, standing: Standing[LocalState]
    ) -> PutStats:
        """Store what was just trained, and that it is not acknowledged yet.

        Raises:
            RunDirError: it could not be stored; what was there still is.
        """
        kinds = local.tensors()
        return self._store.put_round(
            round_num,
            kinds.tensors,
            buffers=kinds.buffers,
            transient=kinds.transient,
            optimizer=local.optimizer.state_dict() if local.optimizer else None,
            state={_RECORD: self._encode(standing)},
            keep_rounds=self._keep_rounds,
            split=self._split,
            replace=True,
        )

    def put_standing(self, standing: Standing[LocalState]) -> None:
        """Make durable what the server acknowledged, or that state was cleared.

        Raises:
            RunDirError: it could not be; the record before is still there.
        """
        self._store.put_state({_RECORD: self._encode(standing)})

    def stats(self) -> StoreStats:
        """Return counts and sizes, for telemetry.

        Raises:
            RunDirError: the store cannot be read.
        """
        return self._store.stats()

    def known_chunks(self, digests: Iterable[str]) -> dict[str, Payload]:
        """Return those of the chunks that are here and sound."""
        found: dict[str, Payload] = {}
        with contextlib.suppress(RunDirError), self._store.reader() as reader:
            for digest in reader.has(digests):
                # A damaged chunk is fetched from the server like a missing one.
                with contextlib.suppress(RunDirError):
                    found[digest] = reader.get_chunk(digest)
        return found

    def _encode(self, standing: Standing[LocalState]) -> bytes:
        trained = standing.trained
        record = _Record(
            run_id=self._run_id,
            acked_round=standing.acked_round,
            fresh_round=standing.fresh_round,
            state=_kept(standing.state) if standing.state else None,
            trained=_kept(trained.state) if trained else None,
            trained_attempt=trained.attempt if trained else 0,
        )
        return msgspec.json.encode(record)

    def _load_record(self) -> _Record | None:
        try:
            data = self._store.get_state(_RECORD)
            return None if data is None else msgspec.json.decode(data, type=_Record)
        except (RunDirError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _load_trained(
        self, record: _Record, local: LocalModel
    ) -> Trained[LocalState] | None:
        state = self._load_state(record.trained, local)
        if state is None:
            return None
        return Trained(
            round_num=state.round_num, attempt=record.trained_attempt, state=state
        )

    def _load_state(self, kept: _Kept | None, local: LocalModel) -> LocalState | None:
        if kept is None or kept.is_gone:
            return None
        try:
            layout = self._store.layout(kept.round_num)
            tensors = self._store.get_round(kept.round_num)
            optimizer = None
            if kept.has_optimizer:
                optimizer = self._store.get_optimizer(kept.round_num)
        except RunDirError:
            return None
        if optimizer is not None:
            optimizer = local.fit(optimizer, kept.construction)
            if optimizer is None:
                return None
        own = {row.name for row in layout.tensors if row.kind in _BUFFERS}
        return LocalState(
            optimizer=optimizer,
            buffers={name: tensors[name] for name in sorted(own)},
            round_num=kept.round_num,
            num_steps=kept.num_steps,
            num_examples=kept.num_examples,
            is_as_stored=optimizer is not None or not kept.has_optimizer,
            construction=kept.construction,
        )


def _kept(state: LocalState) -> _Kept:
    has_optimizer = state.optimizer is not None
    return _Kept(
        round_num=state.round_num,
        num_steps=state.num_steps,
        num_examples=state.num_examples,
        has_optimizer=has_optimizer and state.is_as_stored,
        is_gone=has_optimizer and not (state.is_as_stored or state.is_cleared),
        construction=state.construction,
    )
