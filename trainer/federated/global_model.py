"""The server's model: averaged from updates, measured, and durable per round.

A round is one transaction of the server's chunk store: the model, whose
updates it was made of, the server's momentum, and the last acknowledged round
of every client. What is returned has been committed; telemetry comes after.
Called by one thread at a time.
"""

import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.sources import node_of
from trainer.chunks.fit import match_names
from trainer.chunks.restore import load_tensors
from trainer.chunks.snapshot import model_tensors
from trainer.federated.aggregate import (
    Aggregate,
    ServerMomentum,
    Update,
    fedavg,
    pulls,
)
from trainer.federated.committed import Committed
from trainer.federated.config import FederatedConfig
from trainer.federated.evaluation import Evaluation
from trainer.federated.intake import Contribution
from trainer.federated.ledger import Account, Record, UpdateAccount
from trainer.federated.local import averaged_names
from trainer.federated.problem import ServerData, make_model
from trainer.federated.recovery import DAMAGE, Damage, Recovery, recover
from trainer.federated.server_store import ServerStore, StoredModel
from trainer.federated.terms import Close
from trainer.federated.transfer import Packed, pack


class GlobalModel:
    """The current model and the store that it is kept in."""

    def __init__(
        self, path: Path, *, run_id: str, config: FederatedConfig, data: ServerData
    ) -> None:
        """Open the store and go on from its last round, or begin.

        Where that round is damaged, the newest one that is whole is committed
        again as a round of its own: numbers never go back.

        Raises:
            RunDirError: the store cannot be opened, is another run's, or holds
                another model or no round that is whole.
        """
        self._config = config
        self._run_id = run_id
        model = make_model(data.shape, config.seed)
        self._evaluation = Evaluation(model, data, config)
        self._kinds = model_tensors(model)
        self.averaged = averaged_names(
            self._kinds, average_buffers=config.average_buffers
        )
        self.tensors = _cloned(self._kinds.tensors)
        """Of the whole model, buffers included; replaced, never changed."""
        self._velocity: dict[str, Tensor] = {}
        self.round_num = 0
        """Whose aggregate it is; 0: as initialised."""
        self.acked: dict[str, int] = {}
        """Last round with this client among its members, by key."""
        self.restored_round: int | None = None
        """Last round that was adopted, and not averaged; None: none was."""
        self.found: Record | None = None
        """What the store held when it was opened; None: no round."""
        self.recovery: Recovery | None = None
        """What had to be done to go on; None: nothing."""
        self._store = ServerStore(path, run_id=run_id, config=config, kinds=self._kinds)
        try:
            self._load()
            self.packed = self._pack(self.tensors)
            """What clients get: averaged tensors only."""
        except BaseException:
            self._store.close()
            raise

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def require_home(self) -> None:
        """Make sure that rounds can still be kept where they were.

        Raises:
            LockedError: another run lies in the run directory by now.
        """
        self._store.require_home()

    def advance(
        self,
        round_num: int,
        updates: Sequence[Update],
        close: Close | None = None,
        contributions: Mapping[str, Contribution] | None = None,
    ) -> Committed:
        """Average the updates and commit the outcome.

        Args:
            round_num: The round's number.
            updates: What its members gave.
            close: How it ended; None: with these and nobody else, just now.
            contributions: What is to be told of them besides, by client.

        Raises:
            RunDirError: it could not be stored, or another run lies in the run
                directory by now; the model is as before.
            ValueError: no update holds an example.
        """
        result = fedavg(
            self.tensors,
            updates,
            self.averaged,
            momentum=server_momentum(self._config),
            velocity=self._velocity,
        )
        kept = {
            update.client: {
                "num_examples": update.num_examples,
                "tensors": {name: update.tensors[name] for name in self.averaged},
            }
            for update in updates
            if self._config.keep_updates
        }
        accounts = self._accounts(round_num, updates, contributions or {})
        members = tuple(sorted(update.client for update in updates))
        account = Account(
            members=members,
            num_selected=close.num_selected if close else len(members),
            round_ns=time.monotonic_ns() - close.opened_ns if close else 0,
            reason=close.reason if close else "complete",
        )
        return self._commit(round_num, result, kept, account, accounts)

    def adopt(
        self,
        round_num: int,
        source: Path,
        source_round: int,
        *,
        pattern: str | None = None,
        mapping: Mapping[str, str] | None = None,
    ) -> Committed:
        """Go on from a stored round of any node, as a round without members.

        Args:
            round_num: The number that it gets here.
            source: The store that holds the round.
            source_round: Its number there.
            pattern: Shell pattern of the tensors to take; None: all.
            mapping: Names there that have another name here.

        Raises:
            RunDirError: it cannot be read, does not fit, or cannot be stored.
        """
        began_ns = time.monotonic_ns()
        with ChunkStoreReader(source) as reader:
            stored = load_tensors(reader, source_round, pattern)
        changed = _cloned(self.tensors)
        targets = set((mapping or {}).values())
        wanted = {
            name: tensor
            for name, tensor in changed.items()
            if pattern is None or name in targets or fnmatchcase(name, pattern)
        }
        for name, target in match_names(stored, wanted, mapping).items():
            wanted[target].copy_(stored[name])
        account = Account(
            members=(),
            num_selected=0,
            round_ns=time.monotonic_ns() - began_ns,
            reason="restored",
            source=f"{node_of(source)} round {source_round}",
        )
        return self._commit(round_num, Aggregate(changed, {}), {}, account, ())

    def _accounts(
        self,
        round_num: int,
        updates: Sequence[Update],
        contributions: Mapping[str, Contribution],
    ) -> tuple[UpdateAccount, ...]:
        """Return what is told of the members beside their names."""
        pulled = pulls(self.tensors, updates, self.averaged)
        missed = {
            client: round_num - 1 - self.acked[client]
            for client in contributions
            if client in self.acked
        }
        return tuple(
            contribution.account(client, pulled[client], missed.get(client))
            for client, contribution in sorted(contributions.items())
        )

    def _commit(
        self,
        round_num: int,
        result: Aggregate,
        kept: dict[str, Any],
        account: Account,
        updates: tuple[UpdateAccount, ...],
    ) -> Committed:
        members = account.members
        tensors, measured = self._evaluation.of(result.tensors)
        packed = self._pack(tensors)
        account = msgspec.structs.replace(
            account,
            model_digest=packed.digest,
            loss=measured.loss if measured else None,
            accuracy_frac=measured.accuracy_frac if measured else None,
        )
        acked = self.acked | dict.fromkeys(members, round_num)
        restored_round = self.restored_round if members else round_num
        record = Record(
            run_id=self._run_id,
            round_num=round_num,
            acked=acked,
            restored_round=restored_round,
            account=account,
            updates=updates,
        )
        stored = StoredModel(tensors, result.velocity)
        put = self._store.put_round(record, stored, kept)
        self.tensors, self._velocity = tensors, result.velocity
        self.round_num, self.acked = round_num, acked
        self.restored_round = restored_round
        self.packed = packed
        return Committed(
            round_num=round_num,
            members=members,
            packed=packed,
            account=account,
            measured=measured,
            updates=updates,
            put=put,
            stats=self._store.stats(),
        )

    def _load(self) -> None:
        record = self.found = self._store.record()
        if record is None:
            return
        self.round_num, self.acked = record.round_num, record.acked
        self.restored_round = record.restored_round
        try:
            self.tensors, self._velocity = self._store.load(record.round_num)
        except DAMAGE as error:
            self.recovery = self._recover(error)
        self._store.refuse_another_model(self.tensors)

    def _recover(self, damage: Damage) -> Recovery:
        def adopt(source_round: int) -> Committed:
            return self.adopt(self.round_num + 1, self._store.path, source_round)

        return recover(damage, self._store.older_rounds(), adopt)

    def _pack(self, tensors: Mapping[str, Tensor]) -> Packed:
        averaged = {name: tensors[name] for name in self.averaged}
        return pack(averaged, buffers=self._kinds.buffers & averaged.keys())


def server_momentum(config: FederatedConfig) -> ServerMomentum | None:
    """Return how the mean change is smoothed; None: it is taken as it is."""
    if not config.server_momentum and config.server_lr == 1:
        return None
    return ServerMomentum(momentum=config.server_momentum, lr=config.server_lr)


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
