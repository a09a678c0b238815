"""The server's rounds on Flower's grid: ask every node, average what they answer.

Flower delivers and Flower polls; what counts, what is refused and what is
stored is decided here as everywhere else in this package.
"""

import time
from dataclasses import dataclass
from typing import Any

from agent.rundir.chunks.layout import RoundLayout
from agent.rundir.errors import RunDirError
from agent.start import RunStart
from trainer.federated.flower_messages import (
    Answer,
    Ask,
    content,
    decode,
    flower,
    receive,
)
from trainer.federated.flower_requests import FlowerRequests
from trainer.federated.global_model import GlobalModel
from trainer.federated.intake import Given, examine
from trainer.federated.problem import Settings
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import SECOND_NS, Abandon, Close, Open, Refusal
from trainer.federated.transfer import Parcel, check_same_tensors

_TRAIN = "train"
_POLL_S = 1.0


@dataclass
class FlowerRounds:
    """The server's rounds on Flower's grid."""

    grid: Any
    settings: Settings
    start: RunStart
    model: GlobalModel
    events: ServerEvents
    num_tries: int = 0

    def run(self) -> str:
        """Run rounds; return how it ended: `completed`, or `stopped` by request.

        Raises:
            RunDirError: too few nodes came or answered.
        """
        config = self.settings.config
        requests = FlowerRequests(self.model, self.events, self.start.run)
        while self.model.round_num < config.rounds:
            if not requests.settle():
                return "stopped"
            if self.model.round_num == config.rounds:
                break  # a restored model was the last round
            if self._run_one(self.model.round_num + 1):
                self.num_tries = 0
                continue
            self.num_tries += 1
            if self.num_tries == config.max_tries:
                raise RunDirError(
                    f"{config.max_tries} rounds in a row had fewer than "
                    f"{config.min_updates} updates"
                )
        return "completed"

    def _run_one(self, round_num: int) -> bool:
        """Ask all nodes and average what they answer; False: too few did."""
        config = self.settings.config
        self.events.gathering()
        nodes = self._wait_for_nodes()
        opened_ns = time.monotonic_ns()
        deadline_ns = opened_ns + int(config.round_limit_s * SECOND_NS)
        names = tuple(f"node-{node}" for node in nodes)
        opened = Open(round_num, names, self.model.packed.digest, deadline_ns)
        self.events.opened(opened, opened_ns)
        replies = self.grid.send_and_receive(
            self._messages(nodes, round_num), timeout=config.round_limit_s
        )
        given = self._received(list(replies), round_num, opened_ns)
        if len(given) < config.min_updates:
            why = f"{len(given)} of at least {config.min_updates} updates"
            self.events.abandoned(Abandon(round_num, why, len(nodes)), sorted(given))
            return False
        self.events.closing()
        closed_ns = time.monotonic_ns()
        updates = [one.update for one in given.values()]
        done = self.model.advance(round_num, updates)
        close = Close(
            round_num=round_num,
            members=done.members,
            num_selected=len(nodes),
            reason="complete" if len(given) == len(nodes) else "deadline",
            opened_ns=opened_ns,
            deadline_ns=deadline_ns,
            closed_ns=closed_ns,
        )
        contributions = {client: one.contribution for client, one in given.items()}
        self.events.committed(close, done, contributions)
        return True

    def _wait_for_nodes(self) -> list[int]:
        """Return the nodes that are there, once they are enough.

        The first round of an attempt waits a little for all that are expected.

        Raises:
            RunDirError: they never were.
        """
        config = self.settings.config
        began_s = time.monotonic()
        while True:
            nodes = sorted(self.grid.get_node_ids())
            waited_s = time.monotonic() - began_s
            is_enough = len(nodes) >= config.least_clients
            if len(nodes) >= config.clients or (
                is_enough and waited_s >= config.gather_s
            ):
                return nodes
            if config.patience_s and waited_s >= config.patience_s:
                raise RunDirError(
                    f"{len(nodes)} of at least {config.least_clients} nodes came"
                )
            time.sleep(_POLL_S)

    def _messages(self, nodes: list[int], round_num: int) -> list[Any]:
        config, packed = self.settings.config, self.model.packed
        ask = Ask(
            run_id=self.start.identity.run_id,
            attempt=self.start.attempt,
            round_num=round_num,
            digest=packed.digest,
            layout=packed.layout.to_json(),
            settings=self.settings,
            acked=self.model.acked,
            is_last=round_num == config.rounds,
            restored_round=self.model.restored_round,
        )
        return [
            flower().Message(
                content(ask, packed.payloads), dst_node_id=node, message_type=_TRAIN
            )
            for node in nodes
        ]

    def _received(
        self, replies: list[Any], round_num: int, opened_ns: int
    ) -> dict[str, Given]:
        """Return the updates that count, by client."""
        given: dict[str, Given] = {}
        for reply in replies:
            client = f"node-{reply.metadata.src_node_id}"
            if reply.has_error():
                self.events.refused(client, round_num, str(reply.error.reason))
                continue
            try:
                answer = decode(reply, Answer)
                client = answer.client
                update = self._checked(reply, answer, opened_ns)
            except RunDirError as error:
                self.events.refused(client, round_num, str(error))
                continue
            if client in given:
                self.events.refused(client, round_num, Refusal.DUPLICATE)
            else:
                given[client] = update
        return given

    def _checked(self, reply: Any, answer: Answer, opened_ns: int) -> Given:  # noqa: ANN401 - Flower's
        offer, packed = answer.offer, self.model.packed
        identity = (offer.round_num, offer.attempt, offer.base_digest)
        expected = (self.model.round_num + 1, self.start.attempt, packed.digest)
        if identity != expected:
            raise RunDirError(Refusal.FOREIGN_MODEL)
        layout = RoundLayout.from_json(offer.layout)
        check_same_tensors(packed.layout, layout)
        parcel = Parcel(layout)
        parcel.reuse(packed.payloads)
        receive(reply, parcel)
        given = examine(answer.client, offer, parcel)
        return given.arrived(opened_ns=opened_ns, transfer_ns=0)
