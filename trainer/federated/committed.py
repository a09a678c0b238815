"""A round of the federation that is durable, as whoever tells of it gets it."""

from dataclasses import dataclass

from agent.rundir.chunks.reader import StoreStats
from trainer.chunks.store import PutStats
from trainer.federated.evaluation import Measured
from trainer.federated.ledger import Account, UpdateAccount
from trainer.federated.transfer import Packed


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A round that is durable."""

    round_num: int
    members: tuple[str, ...]
    packed: Packed
    account: Account
    measured: Measured | None
    updates: tuple[UpdateAccount, ...]
    """Of the members, as far as more than their tensors is known; by key."""
    put: PutStats
    stats: StoreStats
