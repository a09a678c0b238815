"""Find the ranks of this very start in a store that outlives starts.

torchrun keeps one store when it starts failed ranks again (seen in torch 2.13),
and what the ranks before left in it looks alive: addresses that refuse, verdicts
that were given up. Its count of restarts differs between hosts, so it cannot
tell the starts apart. Rank 0 therefore names the start, and answers each rank
that asks it: one that is gone does not answer.
"""

import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store

_POLL_S = 0.01


class NobodyMetError(TimeoutError):
    """A rank did not come to the meeting in time."""


def meet(store: Store, rank: int, world_size: int, *, timeout_s: float) -> PrefixStore:
    """Return a part of the store that only the ranks of this start know.

    Args:
        store: Shared by all ranks, and perhaps by ranks before them.
        rank: Of this process.
        world_size: Ranks that have to come.
        timeout_s: How long to wait for them.

    Raises:
        NobodyMetError: somebody did not come.
    """
    deadline = time.monotonic() + timeout_s
    if rank == 0:
        start = _receive(store, world_size, deadline)
    else:
        start = _ask(store, rank, deadline)
    return PrefixStore(f"start/{start}", store)


def _receive(store: Store, world_size: int, deadline: float) -> str:
    """Name the start, and answer every other rank once."""
    start = uuid.uuid4().hex
    store.set("start", start)
    for rank in range(1, world_size):
        while not store.check([f"hello/{start}/{rank}"]):
            _sleep(deadline, f"rank {rank}")
        answer = store.get(f"hello/{start}/{rank}").decode()
        store.set(f"welcome/{start}/{rank}", answer)
    return start


def _ask(store: Store, rank: int, deadline: float) -> str:
    """Ask whoever is named as the start, until it answers this very question."""
    question = uuid.uuid4().hex
    asked = ""
    while True:
        start = store.get("start").decode() if store.check(["start"]) else ""
        if start != asked:
            store.set(f"hello/{start}/{rank}", question)
            asked = start
        answer = f"welcome/{start}/{rank}"
        if start and store.check([answer]) and store.get(answer).decode() == question:
            return start
        _sleep(deadline, "rank 0")


def _sleep(deadline: float, missing: str) -> None:
    if time.monotonic() > deadline:
        raise NobodyMetError(f"{missing} did not come to the process group")
    time.sleep(_POLL_S)
