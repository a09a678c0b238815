"""Carry out what operators ask of a federation on Flower, between its rounds."""

import time
from dataclasses import dataclass

from agent.probes.inbox import PendingRequest
from agent.rundir.layout import RunDir
from trainer.chunks.repair import repair_store
from trainer.federated.global_model import GlobalModel
from trainer.federated.requests import (
    ACCEPTED,
    LOOK_EVERY_S,
    adoption,
    tell_mended,
    telling_damage,
)
from trainer.federated.server_events import ServerEvents


@dataclass
class FlowerRequests:
    """Stands between the agent's inbox and the rounds."""

    model: GlobalModel
    events: ServerEvents
    run: RunDir
    is_paused: bool = False
    is_stopping: bool = False

    def __post_init__(self) -> None:
        self.events.agent.accept(*ACCEPTED)

    def settle(self) -> bool:
        """Do what waits, and wait while paused; False: the run is to end."""
        agent = self.events.agent
        while not self.is_stopping:
            request = agent.at_step(0)
            agent.emitter.step = None  # a server takes no steps
            if request is not None and agent.claim(request):
                with telling_damage(self.events):
                    self._obey(request)
            elif not self.is_paused:
                return True
            else:
                time.sleep(LOOK_EVERY_S)
        return False

    def _obey(self, request: PendingRequest) -> None:
        with self.events.agent.obeying(request):
            if request.kind in ("pause", "continue"):
                self.is_paused = request.kind == "pause"
            elif request.kind == "stop":
                self.is_stopping = True
            elif request.kind == "repair":
                path = self.run.chunk_store(request.args["node"])
                tell_mended(self.events, repair_store(path))
            else:
                adopted = adoption(request, self.model, self.run)
                began_ns = time.monotonic_ns()
                done = adopted.change(self.model.round_num + 1)
                self.events.adopted(done, adopted.source, began_ns)
