"""Carry out what operators ask of a running federation.

Looked at twice a second in the event loop, which is a local read; acted upon
between rounds. A restored model becomes a round of its own, so that it is as
durable as any and every client sees that it has missed nothing but that.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.probes.inbox import PendingRequest
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir, parse_checkpoint_name
from agent.session import Agent
from trainer.federated.coordinator import Coordinator
from trainer.federated.global_model import Committed, GlobalModel
from trainer.federated.terms import SERVER

LOOK_EVERY_S = 0.5
ACCEPTED = ("pause", "continue", "stop", "restore", "resume")


@dataclass(frozen=True)
class Adoption:
    """Another model to go on from."""

    change: Callable[[int], Committed]
    """Commits it as the round of this number; raises RunDirError."""
    source: str
    """Whose round it is, in words."""


def adoption(request: PendingRequest, model: GlobalModel, run: RunDir) -> Adoption:
    """Return what a `restore` or a `resume` asks for; nothing is done yet.

    Raises:
        RunDirError: the name is not that of a round.
    """
    args = request.args
    if request.kind == "resume":
        args = {"node": SERVER, "round_num": _named_round(args, model)}
    node, round_num = args["node"], args["round_num"]
    change = functools.partial(
        model.adopt,
        source=run.chunk_store(node),
        source_round=round_num,
        pattern=args.get("tensors"),
        mapping=args.get("mapping"),
    )
    return Adoption(change, f"{node} round {round_num}")


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
        self, agent: Agent, coordinator: Coordinator, model: GlobalModel, run: RunDir
    ) -> None:
        """Say what is taken; `watch` does it."""
        self._agent = agent
        self._coordinator = coordinator
        self._model = model
        self._run = run
        agent.accept(*ACCEPTED)

    async def watch(self) -> None:
        """Carry out requests, one after the other, until cancelled."""
        while not self._coordinator.is_over:
            request = self._agent.at_step(0)
            self._agent.emitter.step = None  # a server takes no steps
            if request is not None and self._agent.claim(request):
                # What fails is told with the request; the federation goes on.
                with contextlib.suppress(RunDirError):
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
            else:
                await self._adopt(adoption(request, self._model, self._run))

    async def _adopt(self, adopted: Adoption) -> None:
        """Wait for the open round to end, then go on from another model.

        Raises:
            RunDirError: the round is not there, does not fit, or came too late.
        """
        was_paused = self._coordinator.is_paused
        self._coordinator.pause()
        try:
            while not self._coordinator.is_between_rounds:
                if self._coordinator.is_over:
                    raise RunDirError("the federation ended before that")
                await asyncio.sleep(LOOK_EVERY_S / 10)
            await self._coordinator.adopt(adopted.change, adopted.source)
        finally:
            if not was_paused and not self._coordinator.is_over:
                self._coordinator.proceed()
