"""Run a function on every rank of a real gloo process group.

Ranks are forked from a server that has loaded torch once, so that a group of
three costs a tenth of a second. Their store lives in the test's own process,
as torchrun's does in the launcher. A rank that hangs is a failed test.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from agent.rundir.errors import RunDirError
from trainer.distributed.world import World, joined

HANG_S = 60.0
_STORE_TIMEOUT = timedelta(seconds=60)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch._dynamo", "trainer.ddp"])


@dataclass(frozen=True)
class Ended:
    """How the function ended on one rank."""

    value: Any = None
    error: str | None = None
    """The error's text; None: there was none."""
    kind: str | None = None
    exit_code: int | None = None
    is_killed: bool = False


def on_ranks(
    num_ranks: int, function: Callable[..., Any], *arguments: Any, **options: Any
) -> list[Ended]:
    """Return how `function(world, *arguments)` ended on each rank.

    With `joins=False` it is called without a world: it joins by itself.

    Args:
        num_ranks: Size of the group.
        function: At the top level of a module: it is pickled by name.
        arguments: For the function.
        options: For `joined`.
    """
    with started(num_ranks, function, *arguments, **options) as ranks:
        return ranks.ended()


class Ranks:
    """Processes of one group that is running."""

    def __init__(self, processes: list, pipes: list) -> None:
        self.processes = processes
        self._pipes = pipes

    def ended(self) -> list[Ended]:
        """Wait for all of them; one that hangs is a failed test."""
        deadline = time.monotonic() + HANG_S
        ranks = range(len(self._pipes))
        return [self.ended_of(r, deadline - time.monotonic()) for r in ranks]

    def ended_of(self, rank: int, limit_s: float = HANG_S) -> Ended:
        """Wait for one of them."""
        if not self._pipes[rank].poll(max(0.0, limit_s)):
            raise AssertionError(f"rank {rank} hangs")
        try:
            return self._pipes[rank].recv()
        except EOFError:
            return Ended(is_killed=True)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to each, one after the other.

        The fork server reaps them: one may be gone between the look and the signal.
        """
        for process in self.processes:
            if process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signum)


@contextlib.contextmanager
def started(
    num_ranks: int, function: Callable[..., Any], *arguments: Any, **options: Any
) -> Iterator[Ranks]:
    """Start what `on_ranks` runs, and leave no process behind."""
    store = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=_STORE_TIMEOUT
    )
    pipes, processes = [], []
    for rank in range(num_ranks):
        reader, writer = _context.Pipe(duplex=False)
        process = _context.Process(
            target=_be_rank,
            args=(rank, num_ranks, store.port, writer, function, arguments, options),
        )
        process.start()
        writer.close()
        pipes.append(reader)
        processes.append(process)
    ranks = Ranks(processes, pipes)
    try:
        yield ranks
    finally:
        ranks.kill()
        for process in processes:
            process.join()


def _be_rank(rank, num_ranks, port, writer, function, arguments, options) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    try:
        if options.pop("joins", True):
            with joined(timeout_s=30, **options) as world:
                ended = Ended(value=function(world, *arguments))
        else:
            ended = Ended(value=function(*arguments))
    except RunDirError as error:
        ended = Ended(None, str(error), type(error).__name__, error.exit_code)
    except BaseException as error:  # noqa: BLE001 - told to the test
        traceback.print_exc()
        ended = Ended(None, str(error), type(error).__name__)
    writer.send(ended)
    writer.close()


def alone() -> World:
    """Return a process without a group."""
    return World()
