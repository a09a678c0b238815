"""Carry out what operators ask of a running federation.

Looked at twice a second in the event loop, which is a local read; acted upon
between rounds. A restored model becomes a round of its own, so that it is as
durable as any and every client sees that it has missed nothing but that.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.probes.inbox import PendingRequest
from agent.rundir.chunks.errors import ChunkError
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir, parse_checkpoint_name
from trainer.chunks.repair import RepairReport, repair_store
from trainer.federated.committed import Committed
from trainer.federated.coordinator import Coordinator
from trainer.federated.global_model import GlobalModel
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import SERVER

LOOK_EVERY_S = 0.5
BETWEEN_ROUNDS = ("restore", "resume", "repair")
"""What is begun when no round is open."""
ACCEPTED = ("pause", "continue", "stop", *BETWEEN_ROUNDS)


@dataclass(frozen=True)
class Adoption:
    """Another model to go on from."""

    change: Callable[[int], Committed]
    """Commits it as the round of this number; raises RunDirError."""
    source: str
    """Whose round it is, in words."""


def adoption(request: PendingRequest, model: GlobalModel, run: RunDir) -> Adoption:
    """Return what a `restore` or a `resume` asks for; nothing is done yet.

    What can never be is refused here, before the open round is waited for.

    Raises:
        RunDirError: the name is not that of a round, or the store does not
            hold it.
    """
    args = request.args
    if request.kind == "resume":
        args = {"node": SERVER, "round_num": _named_round(args, model)}
    node, round_num = args["node"], args["round_num"]
    path = run.chunk_store(node)
    with ChunkStoreReader(path) as reader:
        reader.round(round_num)
    change = functools.partial(
        model.adopt,
        source=path,
        source_round=round_num,
        pattern=args.get("tensors"),
        mapping=args.get("mapping"),
    )
    return Adoption(change, f"{node} round {round_num}")


def tell_mended(events: ServerEvents, report: RepairReport) -> None:
    """Tell what was wrong with a store, and what others could help with.

    Raises:
        RunDirError: something is left that nobody has.
    """
    events.mended(report)
    if report.left:
        more = f", nor {len(report.left) - 1} others" if len(report.left) > 1 else ""
        raise RunDirError(
            f"no other store of this run has {report.left[0].place}{more}"
        )


@contextlib.contextmanager
def telling_damage(events: ServerEvents) -> Iterator[None]:
    """Let a request fail without its failing the federation, or the next request.

    Why it failed is told with its outcome, whatever it is; a chunk that was not
    what its digest says is told besides, for whoever looks after the stores.
    """
    with contextlib.suppress(Exception):
        try:
            yield
        except ChunkError as error:
            events.damaged(error)
            raise


def _named_round(args: Mapping[str, Any], model: GlobalModel) -> int:
    """Return what rolling back to a checkpoint means here: a server's round."""
    name = args.get("checkpoint")
    if name is None:
        return model.round_num
    parsed = parse_checkpoint_name(name)
    if parsed is None or parsed.kind != "round":
        raise RunDirError(f"`{name}` is not a federated round")
    return parsed.number


class Obeying:
    """Stands between the agent's inbox and the coordinator."""

    def __init__(
        self,
        events: ServerEvents,
        coordinator: Coordinator,
        model: GlobalModel,
        run: RunDir,
    ) -> None:
        """Say what is taken; `watch` does it."""
        self._events = events
        self._agent = events.agent
        self._coordinator = coordinator
        self._model = model
        self._run = run
        self._agent.accept(*ACCEPTED)

    async def watch(self) -> None:
        """Carry out requests, one after the other, until cancelled."""
        while not self._coordinator.is_over:
            request = self._agent.at_step(0)
            self._agent.emitter.step = None  # a server takes no steps
            if request is not None and self._agent.claim(request):
                with telling_damage(self._events):
                    await self._obey(request)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _obey(self, request: PendingRequest) -> None:
        with self._agent.obeying(request):
            if request.kind == "pause":
                self._coordinator.pause()
            elif request.kind == "continue":
                self._coordinator.proceed()
            elif request.kind == "stop":
                self._coordinator.stop_gently()
            elif request.kind == "repair":
                await self._repair(self._run.chunk_store(request.args["node"]))
            else:
                adopted = await asyncio.to_thread(
                    adoption, request, self._model, self._run
                )
                async with self._between_rounds():
                    await self._coordinator.adopt(adopted.change, adopted.source)

    async def _repair(self, path: Path) -> None:
        """Mend a store while nothing is put into the server's.

        Raises:
            RunDirError: it cannot be read, or not all of it could be mended.
        """
        async with self._between_rounds():
            report = await self._coordinator.work(lambda: repair_store(path))
        tell_mended(self._events, report)

    @contextlib.asynccontextmanager
    async def _between_rounds(self) -> AsyncIterator[None]:
        """Wait for the open round to end, and let no other begin meanwhile.

        Raises:
            RunDirError: it came too late.
        """
        was_paused = self._coordinator.is_paused
        self._coordinator.pause()
        try:
            while not self._coordinator.is_between_rounds:
                if self._coordinator.is_over:
                    raise RunDirError("the federation ended before that")
                await asyncio.sleep(LOOK_EVERY_S / 10)
            yield
        finally:
            if not was_paused and not self._coordinator.is_over:
                self._coordinator.proceed()
