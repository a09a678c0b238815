"""What a server's store says of the federation beside its tensors.

Written in the transaction of a round, so that it is never of another round
than the newest. What is told of a round is in it too: a server that is killed
before it has told that leaves it to its next start.
"""

import msgspec

from agent.rundir.errors import UnreadableFileError
from trainer.chunks.stored import StoredRounds

RECORD = "federated.ledger"
"""Key of the store's state."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a committed round: the fields of `RoundCommitted`."""

    members: tuple[str, ...]
    num_selected: int
    round_ns: int
    """Until the round began to be stored."""
    model_digest: str = ""
    loss: float | None = None
    accuracy_frac: float | None = None
    reason: str = "complete"
    source: str | None = None


class UpdateAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a member's update: the fields of `ClientUpdate`."""

    client: str
    num_examples: int
    loss: float | None = None
    queue_ns: int | None = None
    compute_ns: int | None = None
    transfer_ns: int | None = None
    num_bytes: int | None = None
    update_norm: float | None = None
    cosine: float | None = None
    accuracy_frac: float | None = None
    rounds_missed: int | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a restarted server has to know."""

    run_id: str
    round_num: int
    acked: dict[str, int]
    """Last round with this client among its members."""
    restored_round: int | None = None
    """Last round that was adopted; None: none was."""
    account: Account | None = None
    """Of this round; None: an older version wrote it."""
    updates: tuple[UpdateAccount, ...] = ()
    """Of this round's members; empty too where an older version wrote it."""


def encode_record(record: Record) -> bytes:
    """Return a record as it is stored."""
    return msgspec.json.encode(record)


def read_record(store: StoredRounds, run_id: str) -> Record | None:
    """Return what a store says; None: it holds no round of a federation.

    Raises:
        RunDirError: the store or its record cannot be read, or it is another
            run's.
    """
    data = store.get_state(RECORD)
    if data is None:
        return None
    try:
        record = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableFileError(
            f"`{store.path}` has no readable record: {error}"
        ) from error
    if record.run_id != run_id:
        raise UnreadableFileError(f"`{store.path}` belongs to run `{record.run_id}`")
    return record
