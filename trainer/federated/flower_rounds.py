"""The server's rounds on Flower's grid, driven by the same machine as our own.

Flower delivers and is looked at; who is asked, what counts, when a round ends
and what is stored are decided here as everywhere else in this package. One
thread does it all: between two looks it sleeps, no longer than the machine says.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from agent.rundir.errors import RunDirError
from agent.start import RunStart
from trainer.federated.config import round_rules
from trainer.federated.flower_messages import (
    Answer,
    Assignment,
    Introduction,
    Question,
    content,
    decode,
    receive,
)
from trainer.federated.flower_nodes import FlowerNodes
from trainer.federated.flower_post import FlowerPost, Sent
from trainer.federated.flower_requests import FlowerRequests
from trainer.federated.global_model import GlobalModel
from trainer.federated.intake import Given, examine
from trainer.federated.problem import Settings
from trainer.federated.rounds import Rounds
from trainer.federated.server_events import ServerEvents
from trainer.federated.terms import (
    Abandon,
    Ask,
    Close,
    Effect,
    Finish,
    Offer,
    Open,
    Phase,
)
from trainer.federated.transfer import Parcel, read_layout

_QUERY, _TRAIN = "query", "train"
_GONE = "its node is gone"


@dataclass
class FlowerRounds:
    """The server's rounds on Flower's grid."""

    grid: Any
    settings: Settings
    start: RunStart
    model: GlobalModel
    events: ServerEvents
    look_every_s: float = 1.0
    _rounds: Rounds = field(init=False)
    _requests: FlowerRequests = field(init=False)
    _post: FlowerPost = field(init=False)
    _nodes: FlowerNodes = field(init=False, default_factory=FlowerNodes)
    _given: dict[str, Given] = field(init=False, default_factory=dict)
    _opened_ns: int = field(init=False, default=0)
    _finish: Finish | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._rounds = Rounds(
            round_rules(self.settings.config),
            attempt=self.start.attempt,
            last_round=self.model.round_num,
            model_digest=self.model.packed.digest,
            now_ns=time.monotonic_ns(),
        )
        self._requests = FlowerRequests(
            self._rounds, self.model, self.events, self.start.run
        )
        self._post = FlowerPost(self.grid)

    def run(self) -> str:
        """Run rounds; return how it ended: `completed`, or `stopped` by request.

        Raises:
            RunDirError: too few clients came or answered, a round could not be
                stored, or another run lies in the run directory by now.
        """
        self.events.gathering()
        try:
            finish = self._until_over()
        finally:
            self.events.close()
        if finish.reason == "error":
            raise RunDirError(f"the federation ended: {finish.detail}")
        return finish.reason

    def _until_over(self) -> Finish:
        while self._finish is None:
            self.model.require_home()
            self._obey(self._requests.look())
            self._meet_nodes()
            self._read_answers()
            self._obey(self._rounds.tick(time.monotonic_ns()))
            self.events.look()
            self._sleep()
        return self._finish

    def _sleep(self) -> None:
        """Wait for the next look, or for what the machine has to do before it."""
        if self._finish is not None:
            return
        wake_ns = self._rounds.wake_ns()
        left_s = self.look_every_s
        if wake_ns is not None:
            left_s = min(left_s, max(0, wake_ns - time.monotonic_ns()) / 1e9)
        time.sleep(left_s)

    def _meet_nodes(self) -> None:
        gone, new = self._nodes.look(self._post.nodes())
        for node in gone:
            self._lose(node, _GONE)
        for node in new:
            self._post.send(Sent(node, 0), _QUERY, content(Question(), {}))

    def _read_answers(self) -> None:
        for sent, reply in self._post.answers():
            if sent.round_num:
                self._consider(sent, reply)
            else:
                self._join(sent.node, reply)

    def _join(self, node: int, reply: Any) -> None:  # noqa: ANN401 - Flower's
        """A node told whose it is, and may be asked from now on."""
        try:
            client = decode(reply, Introduction).client
            older = self._nodes.introduce(node, client)
        except (RunDirError, ValueError) as error:
            self.events.turned_away(self._nodes.name_of(node), str(error))
            return
        if older is not None:
            self._lose(older, "another node of this client came")
        self.events.joined(
            client,
            _session(node),
            self.model.acked.get(client),
            is_return=self._nodes.note_return(client),
        )
        self._obey(self._rounds.join(client, _session(node), time.monotonic_ns()))

    def _lose(self, node: int, why: str) -> None:
        self._nodes.leave(node)
        client, session = self._nodes.name_of(node), _session(node)
        self.events.lost(client, session, why)
        self._obey(self._rounds.lose(client, session, time.monotonic_ns()))

    def _obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Open):
                self._open(effect)
            elif isinstance(effect, Ask):
                self._ask(effect.client)
            elif isinstance(effect, Close):
                self._close(effect)
            elif isinstance(effect, Abandon):
                self.events.abandoned(effect, sorted(self._given))
                self._given.clear()
            else:
                self._finish = effect

    def _open(self, effect: Open) -> None:
        self._opened_ns = time.monotonic_ns()
        self._given.clear()
        # Late answers about the round before are refused by name, older ones
        # are not even looked for.
        self._post.forget_before(effect.round_num - 1)
        self.events.opened(effect, self._opened_ns)
        for client in effect.clients:
            self._ask(client)

    def _ask(self, client: str) -> None:
        node = self._nodes.node_of(client)
        if node is None:
            return
        config, packed = self.settings.config, self.model.packed
        round_num = self._rounds.round_num
        assignment = Assignment(
            client=client,
            run_id=self.start.identity.run_id,
            attempt=self.start.attempt,
            round_num=round_num,
            digest=packed.digest,
            layout=packed.layout.to_json(),
            settings=self.settings,
            acked_round=self.model.acked.get(client),
            is_last=round_num == config.rounds,
            restored_round=self.model.restored_round,
        )
        told = content(assignment, packed.payloads)
        if not self._post.send(Sent(node, round_num), _TRAIN, told):
            self._lose(node, _GONE)

    def _consider(self, sent: Sent, reply: Any) -> None:  # noqa: ANN401 - Flower's
        """An answer is there: count it, or say why not."""
        client, session = self._nodes.name_of(sent.node), _session(sent.node)
        try:
            answer = _answer(reply, client)
            offer = Offer(
                client=client,
                session=session,
                round_num=answer.offer.round_num,
                attempt=answer.offer.attempt,
                base_digest=answer.offer.base_digest,
            )
            refusal = self._rounds.refusal(offer, time.monotonic_ns())
            given = None if refusal else self._examined(reply, answer)
        except RunDirError as error:
            self.events.refused(client, sent.round_num, str(error))
            now_ns = time.monotonic_ns()
            self._obey(self._rounds.decline(client, session, sent.round_num, now_ns))
            return
        refusal, effects = self._rounds.update(offer, time.monotonic_ns())
        if refusal is not None:
            self.events.refused(client, sent.round_num, refusal)
        elif given is not None:
            self._given[client] = given.arrived(
                opened_ns=self._opened_ns, transfer_ns=0
            )
        self._obey(effects)

    def _examined(self, reply: Any, answer: Answer) -> Given:  # noqa: ANN401 - Flower's
        packed = self.model.packed
        whose = f"client `{answer.client}`"
        parcel = Parcel(read_layout(answer.offer.layout, packed.layout, whose))
        parcel.reuse(packed.payloads)
        receive(reply, parcel)
        return examine(answer.client, answer.offer, parcel)

    def _close(self, close: Close) -> None:
        """Average, store, tell, and let the machine go on."""
        given = {client: self._given[client] for client in close.members}
        self.events.closing()
        updates = [one.update for one in given.values()]
        contributions = {client: one.contribution for client, one in given.items()}
        done = self.model.advance(close.round_num, updates, close, contributions)
        self._given.clear()
        self.events.committed(close, done)
        now_ns = time.monotonic_ns()
        self._obey(
            self._rounds.commit_done(close.round_num, done.packed.digest, now_ns)
        )
        if self._rounds.phase is Phase.GATHERING:
            self.events.gathering()


def _answer(reply: Any, client: str) -> Answer:  # noqa: ANN401 - Flower's
    """Return what a client's node answers.

    Raises:
        RunDirError: its app failed, or it answers for somebody else.
    """
    answer = decode(reply, Answer)
    if answer.client != client:
        raise RunDirError(f"its node answers for `{answer.client!a}`")
    return answer


def _session(node: int) -> str:
    return f"node-{node}"
