"""Put rounds into one node's store, each in a single transaction.

Metadata, new blobs, retention and garbage collection are committed together,
so that a kill or a power cut at any moment leaves whole rounds only, and a
round that was acknowledged stays. Hashing is done before the transaction.
Methods may be called from any thread; writing ones run one at a time. Whoever
reports to telemetry does so after a method has returned.
"""

import contextlib
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from agent.rundir.chunks.errors import (
    ChunkPlace,
    DamagedChunkError,
    NotAChunkStoreError,
    StoreFullError,
)
from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.reader import file_bytes, file_id
from agent.rundir.chunks.records import ChunkSpec
from agent.rundir.chunks.sources import node_of, run_dir_of
from trainer.chunks.commit import (
    NewRound,
    write_blob,
    write_round,
    write_state,
)
from trainer.chunks.copies import Copies, Copy
from trainer.chunks.cut import CutRound, ReceivedRound
from trainer.chunks.database import check_room, fold_log, open_database, transaction
from trainer.chunks.retention import (
    DEFAULT_KEEP_ROUNDS,
    PruneStats,
    check_keep_rounds,
    prune,
    tidy,
)
from trainer.chunks.snapshot import take_snapshot
from trainer.chunks.split import Split, TensorSplit
from trainer.chunks.stored import StoredRounds


@dataclass(frozen=True, slots=True)
class PutStats:
    """What storing one round did."""

    round_num: int
    digest: str
    """Of the round's layout: identifies the model, bit for bit."""
    num_chunks: int
    num_new: int
    """Chunks that no other round held."""
    num_bytes: int
    new_bytes: int
    shared_bytes: int
    nonfinite: tuple[str, ...]
    """Tensors with a NaN or an infinity."""
    pruned: tuple[int, ...]
    """Rounds that retention dropped in the same transaction."""
    mended: tuple[ChunkSpec, ...]
    """Chunks whose copy here had been damaged: this round's bytes replaced it."""
    file_bytes: int
    """Database and log on disk. While the store is open, the log keeps the
    room of one round; closing or pruning gives it back."""
    elapsed_ns: int
    """Monotonic, from the call until everything was durable."""


class ChunkStore(StoredRounds):
    """One node's rounds, open for writing; use it in a `with` statement."""

    def __init__(self, path: Path, *, node: str | None = None) -> None:
        """Open the store, or make it.

        Args:
            path: `RUN_DIR/chunks/<node>/<node>_chunks.db`.
            node: `server` or a client key; by default, what the path says.

        Raises:
            NotAChunkStoreError, ForeignStoreError, NewerStoreError: what is
                there is not a store that this version may write to.
            StoreLockedError: another process is writing.
            StoreFullError: there is no room for a new store.
        """
        super().__init__(path)
        self.node = node or node_of(path)
        self._lock = threading.Lock()
        self._conn = open_database(path, self.node)
        self._file_id = file_id(path)
        self._upkeep = ThreadPoolExecutor(1, "chunk-upkeep")
        self._tidying: Future[None] | None = None

    @classmethod
    def open(cls, path: Path, *, node: str | None = None) -> Self:
        """Open the store, or make it; see the class for what can go wrong."""
        return cls(path, node=node)

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
        """Fold the log in and let go of the file; closing twice is fine.

        Raises:
            DamagedStoreError: the log could not be folded in.
        """
        with self._lock:
            try:
                self._wait_for_upkeep()
            finally:
                self._upkeep.shutdown()
                # The last one to close folds the log in.
                self.close_readers()
                self._conn.close()

    def settle(self) -> None:
        """Wait until the log of the last round is folded in.

        Raises:
            DamagedStoreError: it could not be.
        """
        with self._lock:
            self._wait_for_upkeep()

    def put_round(  # noqa: PLR0913 - each names one fact of the round
        self,
        round_num: int,
        tensors: Mapping[str, Tensor],
        *,
        buffers: Collection[str] = (),
        transient: Collection[str] = (),
        optimizer: Mapping[str, Any] | None = None,
        members: Sequence[str] | None = None,
        state: Mapping[str, bytes] | None = None,
        keep_rounds: int | None = DEFAULT_KEEP_ROUNDS,
        split: Split | None = None,
        replace: bool = False,
    ) -> PutStats:
        """Store a round; when this returns, it survives a power cut.

        Args:
            round_num: from 1. A round that is there already with the same
                content is left as it is, its damaged chunks put right.
            tensors: any dtype, shape, device and stride; tied ones are kept
                once. They must not change until this returns.
            buffers: which of them are buffers.
            transient: which of those a `state_dict` leaves out.
            optimizer: a `state_dict` of tensors and plain values.
            members: whose updates the round was made of.
            state: values for `node_state`, in the same transaction.
            keep_rounds: how many rounds stay, this one included; None for all.
            split: `TensorSplit()` by default.
            replace: take the place of another model under the same number.

        Raises:
            RoundExistsError: the round is there with another content.
            StoreFullError: the disk is full; the store is as before.
            StoreLockedError: another process is writing.
            TypeError, ValueError: what was given cannot be stored.
        """
        started_ns = time.monotonic_ns()
        snapshot = take_snapshot(
            tensors, buffers=buffers, transient=transient, optimizer=optimizer
        )
        with CutRound(snapshot, split or TensorSplit()) as content:
            new = NewRound(
                round_num,
                content,
                snapshot.nonfinite,
                members,
                state or {},
                keep_rounds,
                replace,
            )
            return self._write(new, started_ns)

    def commit_round(
        self,
        round_num: int,
        layout: RoundLayout,
        *,
        members: Sequence[str] | None = None,
        state: Mapping[str, bytes] | None = None,
        keep_rounds: int | None = DEFAULT_KEEP_ROUNDS,
        nonfinite: Sequence[str] = (),
    ) -> PutStats:
        """Store a round whose chunks were received by `put_chunks`.

        Raises:
            MissingChunkError, DamagedChunkError: the first chunk that is not
                there, or not what its digest says.
            BadLayoutError: the layout does not describe a model.
            RoundExistsError, StoreFullError, StoreLockedError: as above.
        """
        started_ns = time.monotonic_ns()
        layout.check()
        new = NewRound(
            round_num,
            ReceivedRound(layout),
            nonfinite=tuple(nonfinite),
            members=members,
            state=state or {},
            keep_rounds=keep_rounds,
        )
        return self._write(new, started_ns)

    def put_chunks(self, payloads: Iterable[Payload], *, round_num: int) -> int:
        """Keep chunks for a round that is being received; return how many were new.

        A copy that is here but damaged is written anew, and counts as new.
        They stay until that round or a later one is committed, over a restart
        too, so that a broken transfer goes on where it stopped.

        Raises:
            DamagedChunkError: bytes do not have their digest; none is kept.
            StoreFullError, StoreLockedError: as above.
        """
        checked = list(payloads)
        for payload in checked:
            self._check_received(payload, round_num)
        by_digest = {payload.digest: payload for payload in checked}
        with self._lock, self._writing():
            fresh = [p for p in by_digest.values() if not self._holds(p)]
            check_room(self._conn, self.path, sum(len(p.data) for p in fresh))
            for payload in fresh:
                view = memoryview(payload.data)
                write_blob(self._conn, payload.digest, payload.dtype, (view,))
            self._conn.executemany(
                "INSERT OR REPLACE INTO staged_chunks VALUES (?, ?)",
                ((digest, round_num) for digest in by_digest),
            )
        return len(fresh)

    def prune(self, keep_rounds: int) -> PruneStats:
        """Keep the newest rounds only; shrinks the file, on a full disk too.

        Raises:
            StoreFullError: not even the ballast's room was enough.
            StoreLockedError: another process is writing.
        """
        with self._lock:
            self._wait_for_upkeep()
            return prune(self._conn, self.path, keep_rounds)

    def put_state(self, state: Mapping[str, bytes]) -> None:
        """Set values of `node_state`, durably.

        Raises:
            StoreFullError, StoreLockedError: nothing was set.
        """
        with self._lock, self._writing():
            write_state(self._conn, state)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Commit, then tidy up beside the caller.

        What is committed is durable: the log holds it. Moving it into the
        database costs as much again and is nobody's to wait for, except the
        next writer, so that the log never holds more than one round.

        Raises:
            NotAChunkStoreError: another file, or none, lies at the path: what
                was written to the one that is open would be lost.
        """
        self._wait_for_upkeep()
        if self._file_id != file_id(self.path):
            raise NotAChunkStoreError(
                f"`{self.path}` was removed or replaced while it was open"
            )
        try:
            with transaction(self._conn, self.path):
                yield
        except StoreFullError:
            with contextlib.suppress(StoreFullError):
                fold_log(self._conn, self.path)
            raise
        self._tidying = self._upkeep.submit(tidy, self._conn, self.path)

    def _wait_for_upkeep(self) -> None:
        tidying, self._tidying = self._tidying, None
        if tidying is not None:
            tidying.result()

    def _write(self, new: NewRound, started_ns: int) -> PutStats:
        if new.round_num < 1:
            raise ValueError(f"round_num is {new.round_num}")
        check_keep_rounds(new.keep_rounds)
        with self._noting_damage(), self._lock, self._writing():
            written = write_round(self._conn, self.path, self.node, new)
        layout = new.content.layout()
        return PutStats(
            round_num=new.round_num,
            digest=written.digest,
            num_chunks=len(layout.chunks),
            num_new=written.num_new,
            num_bytes=layout.num_bytes,
            new_bytes=written.new_bytes,
            shared_bytes=layout.num_bytes - written.new_bytes,
            nonfinite=new.nonfinite,
            pruned=written.pruned,
            mended=written.mended,
            file_bytes=file_bytes(self.path),
            elapsed_ns=time.monotonic_ns() - started_ns,
        )

    @contextlib.contextmanager
    def _noting_damage(self) -> Iterator[None]:
        """Remember a chunk that stood in a round's way, so that it is asked for."""
        try:
            yield
        except DamagedChunkError as error:
            self._suspects.add(error.place.digest)
            raise

    def _holds(self, payload: Payload) -> bool:
        copies, pieces = Copies(self._conn, self.path), (memoryview(payload.data),)
        copy = copies.compare(payload.digest, payload.dtype, pieces)
        return copy is Copy.SOUND

    def _check_received(self, payload: Payload, round_num: int) -> None:
        if not payload.is_sound():
            place = ChunkPlace(self.node, round_num, None, (), payload.digest)
            raise DamagedChunkError(
                place, "was received with other bytes", (), run_dir_of(self.path)
            )
