"""A client's side of a round, without the network: settle, train, acknowledge.

Everything that touches the model, the optimizer and the client's store is
here, and is called by one thread at a time. The state before a round stays
until the server has acknowledged the round; anything else is taken back.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.chunks.payload import Payload
from agent.rundir.chunks.reader import StoreStats
from agent.rundir.errors import RunDirError
from trainer.chunks.store import PutStats
from trainer.federated.client_store import ClientStore
from trainer.federated.config import FederatedConfig
from trainer.federated.learner import LocalTrainer, StepResult
from trainer.federated.local import LocalModel, LocalState, model_of, optimizer_of
from trainer.federated.messages import Report, UpdateOffer
from trainer.federated.optimizer_state import StateChange
from trainer.federated.session import (
    Loss,
    ReconnectPolicy,
    Standing,
    acknowledge,
    begin,
    change_state,
    finish_training,
    settle,
)
from trainer.federated.transfer import Packed, pack


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Optimizer state that was cleared or shrunk, and why."""

    change: StateChange
    loss: Loss
    data_position: int
    """Examples that this client had read by then."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What became of storing a round."""

    put: PutStats | None = None
    stats: StoreStats | None = None
    error: str | None = None
    """Why it could not be stored; None: it is durable."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """A trained round, ready to be sent."""

    round_num: int
    attempt: int
    base_digest: str
    packed: Packed
    report: Report
    stored: Stored | None

    def as_offer(self) -> UpdateOffer:
        """Return the description under which it is sent."""
        return UpdateOffer(
            round_num=self.round_num,
            attempt=self.attempt,
            base_digest=self.base_digest,
            layout=self.packed.layout.to_json(),
            report=self.report,
        )


class Workbench:
    """One client's model, optimizer, standing and store."""

    def __init__(
        self,
        trainer: LocalTrainer,
        config: FederatedConfig,
        store: ClientStore | None = None,
    ) -> None:
        """Set up a freshly made trainer, and go on from what the store remembers.

        Raises:
            TypeError: the trainer has no model.
        """
        self.local = LocalModel(
            model_of(trainer),
            optimizer_of(trainer),
            average_buffers=config.average_buffers,
        )
        self._trainer = trainer
        self._config = config
        self._store = store
        self.standing: Standing[LocalState] = (
            Standing() if store is None else store.load_standing(self.local)
        )
        self._live: LocalState | None = None
        """What the model and the optimizer hold now; None: as constructed."""

    def settle(
        self,
        *,
        server_acked: int | None,
        attempt: int,
        last_round: int,
        restored_round: int | None = None,
    ) -> Reset | None:
        """Find out after a reconnect what may be kept, and reset what may not."""
        settled = settle(
            self.standing,
            server_acked=server_acked,
            attempt=attempt,
            last_round=last_round,
            restored_round=restored_round,
        )
        self.standing = settled.standing
        return None if settled.loss is None else self._lose(settled.loss)

    def acknowledge(self, round_num: int | None) -> str | None:
        """The server committed a round with this client in it.

        Returns:
            Why that could not be made durable; None: it is, or was known.
        """
        if round_num is None:
            return None
        before, self.standing = self.standing, acknowledge(self.standing, round_num)
        return None if self.standing is before else self._remember()

    def prepare(
        self,
        round_num: int,
        tensors: Mapping[str, Tensor],
        restored_round: int | None = None,
    ) -> Reset | None:
        """Load the global model, and the state that goes with it."""
        settled = begin(self.standing, round_num, restored_round)
        self.standing = settled.standing
        reset = None if settled.loss is None else self._lose(settled.loss)
        if reset is not None and not reset.change.before:
            # Nothing has grown since the reset on return: nothing to tell.
            reset = None
        self._restore(self.standing.state)
        self.local.load_global(tensors)
        return reset

    def train(
        self,
        round_num: int,
        attempt: int,
        base_digest: str,
        *,
        is_cancelled: Callable[[], bool],
        on_step: Callable[[StepResult], None],
    ) -> Update | None:
        """Train a prepared round and store it; None: it was cancelled.

        Raises:
            LockedError: another run lies in the run directory by now.
        """

        def count(result: StepResult) -> None:
            self.local.num_steps += 1
            self.local.num_examples += result.num_examples
            on_step(result)

        self._live = _CHANGING
        report = self._trainer.train(
            round_num, is_cancelled=is_cancelled, on_step=count
        )
        if report is None:
            return None
        self._live = self.local.snapshot(round_num)
        self.standing = finish_training(
            self.standing, round_num=round_num, attempt=attempt, state=self._live
        )
        return Update(
            round_num=round_num,
            attempt=attempt,
            base_digest=base_digest,
            packed=pack(self.local.averaged_tensors()),
            report=report,
            stored=self._put_round(round_num),
        )

    def averaged_layout(self) -> RoundLayout:
        """Return what a global model has to look like."""
        return pack(self.local.averaged_tensors()).layout

    def known_chunks(self, digests: Iterable[str]) -> dict[str, Payload]:
        """Return those of the chunks that this client's store holds."""
        return {} if self._store is None else self._store.known_chunks(digests)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()

    def _lose(self, loss: Loss) -> Reset | None:
        """Apply the policy to what the acknowledged state has become."""
        top = self._config.reset_top
        policy = ReconnectPolicy(self._config.policy)
        position = self.local.num_examples
        if self.standing.state is None:
            # Whatever is live here belongs to a round that nobody knows.
            change = self.local.reset(top)
            self._live = _CHANGING
        elif policy is ReconnectPolicy.KEEP:
            return None
        else:
            self._restore(self.standing.state)
            position = self.local.num_examples
            change = self._weaken(policy, loss.rounds_missed, top)
        self._remember()
        if change is None:
            return None
        return Reset(change=change, loss=loss, data_position=position)

    def _weaken(
        self, policy: ReconnectPolicy, rounds_missed: int, top: int
    ) -> StateChange | None:
        if policy is ReconnectPolicy.DECAY:
            change = self.local.decay(self._config.decay**rounds_missed, top)
        else:
            change = self.local.reset(top)

        def as_it_is(state: LocalState) -> LocalState:
            now = self.local.snapshot(state.round_num)
            is_cleared = policy is ReconnectPolicy.RESET
            return replace(now, is_as_stored=False, is_cleared=is_cleared)

        self.standing = change_state(self.standing, as_it_is)
        self._live = self.standing.state
        return change

    def _restore(self, state: LocalState | None) -> None:
        if self._live is not state:
            self.local.restore(state)
            self._live = state

    def _put_round(self, round_num: int) -> Stored | None:
        if self._store is None:
            return None
        self._store.require_home()
        try:
            put = self._store.put_round(round_num, self.local, self.standing)
            return Stored(put=put, stats=self._store.stats())
        except (RunDirError, TypeError, ValueError) as error:
            return Stored(error=str(error))

    def _remember(self) -> str | None:
        if self._store is None:
            return None
        self._store.require_home()
        try:
            self._store.put_standing(self.standing)
        except RunDirError as error:
            return str(error)
        return None


_CHANGING = LocalState(optimizer=None, buffers=None)
"""Stands for a model in the middle of something: equal to no state."""
