"""Carry out what operators ask of a running federation.

Looked at twice a second in the event loop, which is a local read; acted upon
between rounds. A restored model becomes a round of its own, so that it is as
durable as any and every client sees that it has missed nothing but that.
"""

import asyncio
import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from agent.probes.inbox import PendingRequest
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir, parse_checkpoint_name
from agent.session import Agent
from trainer.federated.coordinator import Coordinator
from trainer.federated.global_model import GlobalModel
from trainer.federated.terms import SERVER

LOOK_EVERY_S = 0.5
ACCEPTED = ("pause", "continue", "stop", "restore", "resume")


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
            elif request.kind == "restore":
                await self._restore(request.args)
            else:
                await self._restore(self._as_restore(request.args))

    def _as_restore(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Return what rolling back to a checkpoint means here: a server's round.

        Raises:
            RunDirError: the name is not that of a round.
        """
        name = args.get("checkpoint")
        parsed = None if name is None else parse_checkpoint_name(name)
        if name is not None and (parsed is None or parsed.kind != "round"):
            raise RunDirError(f"`{name}` is not a federated round")
        round_num = parsed.number if parsed else self._model.round_num
        return {"node": SERVER, "round_num": round_num}

    async def _restore(self, args: Mapping[str, Any]) -> None:
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
            node, round_num = args["node"], args["round_num"]
            await self._coordinator.adopt(
                functools.partial(
                    self._model.adopt,
                    source=self._run.chunk_store(node),
                    source_round=round_num,
                    pattern=args.get("tensors"),
                    mapping=args.get("mapping"),
                ),
                source=f"{node} round {round_num}",
            )
        finally:
            if not was_paused and not self._coordinator.is_over:
                self._coordinator.proceed()
