"""Carry out what operators ask of a federation on Flower, between its rounds."""

import time
from dataclasses import dataclass, field

from agent.probes.inbox import PendingRequest
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from trainer.chunks.repair import repair_store
from trainer.federated.global_model import GlobalModel
from trainer.federated.requests import (
    ACCEPTED,
    BETWEEN_ROUNDS,
    adoption,
    tell_mended,
    telling_damage,
)
from trainer.federated.rounds import Rounds
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import Effect, Phase


@dataclass
class FlowerRequests:
    """Stands between the agent's inbox and the machine of rounds."""

    rounds: Rounds
    model: GlobalModel
    events: ServerEvents
    run: RunDir
    _is_held: bool = field(init=False, default=False)
    """Whether rounds were paused for a request that waits for the open one."""
    _waiting_id: str = field(init=False, default="")
    """The request that was found to have to wait; empty: none was."""

    def __post_init__(self) -> None:
        self.events.agent.accept(*ACCEPTED)

    def look(self) -> list[Effect]:
        """Carry out the oldest request, if it can be begun; return what follows."""
        agent = self.events.agent
        request = agent.at_step(0)
        agent.emitter.step = None  # a server takes no steps
        if request is None:
            return self._let_go()
        if self._has_to_wait(request):
            self._hold()
            return []
        effects: list[Effect] = []
        if agent.claim(request):
            with telling_damage(self.events), agent.obeying(request):
                effects = self._obey(request)
        return effects + self._let_go()

    def _obey(self, request: PendingRequest) -> list[Effect]:
        now_ns = time.monotonic_ns()
        if request.kind == "pause":
            self.rounds.pause()
        elif request.kind == "continue":
            return self.rounds.proceed(now_ns)
        elif request.kind == "stop":
            return self.rounds.stop(now_ns)
        elif request.kind == "repair":
            path = self.run.chunk_store(request.args["node"])
            tell_mended(self.events, repair_store(path))
        else:
            adopted = adoption(request, self.model, self.run)
            done = adopted.change(self.rounds.round_num)
            self.events.adopted(done, adopted.source, now_ns)
            return self.rounds.adopt(done.packed.digest, time.monotonic_ns())
        return []

    def _has_to_wait(self, request: PendingRequest) -> bool:
        """Whether the open round has to end first; what can never be need not.

        Stores are looked into once: what has become of one by the end of the round
        is found out then.
        """
        if request.kind not in BETWEEN_ROUNDS or self.rounds.phase is not Phase.OPEN:
            return False
        if request.id == self._waiting_id:
            return True
        try:
            if request.kind != "repair":
                adoption(request, self.model, self.run)
        except RunDirError:
            return False
        self._waiting_id = request.id
        return True

    def _hold(self) -> None:
        """Let no round begin after the open one."""
        if not self.rounds.is_paused:
            self.rounds.pause()
            self._is_held = True

    def _let_go(self) -> list[Effect]:
        if not self._is_held:
            return []
        self._is_held = False
        return self.rounds.proceed(time.monotonic_ns())
