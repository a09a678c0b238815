"""What the server tells the run directory, after it has happened.

A thin layer over the agent: it knows which events a step of a federation is
made of, and nothing of how the step was decided.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic_ns
from typing import Any

import msgspec

from agent.rundir.chunks.errors import ChunkError, ChunkPlace, MissingChunkError
from agent.rundir.chunks.sources import node_of
from agent.rundir.chunks.verify import Finding
from agent.rundir.events import (
    ChunkDamaged,
    ChunkRepaired,
    ClientJoined,
    ClientLost,
    ClientRefused,
    ClientUpdate,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    StoreStats,
    UpdateRefused,
)
from agent.session import Agent
from trainer.chunks.repair import RepairReport
from trainer.console import complain, say
from trainer.federated.committed import Committed
from trainer.federated.flood import Rate, Sparing
from trainer.federated.ledger import Account, UpdateAccount
from trainer.federated.mended_copies import tell_mended_copies
from trainer.federated.recovery import Recovery
from trainer.federated.terms import SECOND_NS, SERVER, Abandon, Close, Open

_SLACK_S = 60.0
"""What averaging, measuring and storing may take before it looks stuck."""
_TURNED_AWAY = Rate(at_once=1, every_ns=SECOND_NS)
"""Over all keys: whoever reaches the port claims any number of them."""
_REFUSED = Rate(at_once=20, every_ns=SECOND_NS)
"""Of one client: rounds that take milliseconds may each refuse it once."""
_MAX_KEY_CHARS = 100
_MAX_REASON_CHARS = 1000
"""A reason may quote what a client sent."""


class ServerEvents:
    """Writes the server's telemetry.

    What a client can cause as often as it likes is told sparingly, so that it
    fills neither a disk nor a screen; `look` tells later what was held back.
    """

    def __init__(self, agent: Agent) -> None:
        """Write through an attached agent."""
        self.agent = agent
        self._turned_away = Sparing(_TURNED_AWAY, partial(agent.emit, ClientRefused))
        self._refused = Sparing(_REFUSED, partial(agent.emit, UpdateRefused))

    def look(self) -> None:
        """Tell what was held back and may be told by now."""
        now_ns = monotonic_ns()
        self._turned_away.look(now_ns)
        self._refused.look(now_ns)

    def close(self) -> None:
        """Tell all that was held back: the federation is over."""
        self._turned_away.close()
        self._refused.close()

    def gathering(self) -> None:
        """Between rounds: too few clients, or paused."""
        self.agent.phase("waiting")

    def opened(self, effect: Open, now_ns: int) -> None:
        """A round was opened."""
        limit_ns = effect.deadline_ns - now_ns
        self.agent.emitter.round_num = effect.round_num
        self.agent.phase("training", limit_s=limit_ns / 1e9 + _SLACK_S)
        self.agent.emit(
            RoundStarted,
            round_num=effect.round_num,
            clients=effect.clients,
            model_digest=effect.model_digest,
            deadline_ns=limit_ns,
        )

    def closing(self) -> None:
        """The round's updates are being averaged and stored."""
        self.agent.phase("saving", limit_s=_SLACK_S)

    def committed(self, close: Close, done: Committed) -> None:
        """A round is durable; tell it whole."""
        self._updates(close.round_num, done.updates)
        self._committed(done.round_num, done.account, close.opened_ns)
        self._measured(done)
        self._stored(done)
        say(_line(close, done))

    def adopted(self, done: Committed, source: str, began_ns: int) -> None:
        """Another model became a round without members."""
        self._committed(done.round_num, done.account, began_ns)
        self._measured(done)
        self._stored(done)
        say(f"round {done.round_num}: restored from {source}")

    def told_late(
        self, round_num: int, account: Account, updates: Iterable[UpdateAccount]
    ) -> None:
        """A round that an earlier attempt stored and did not live to tell.

        Args:
            round_num: Its number.
            account: What is told of it.
            updates: Those that were not told either.
        """
        self._updates(round_num, updates)
        self._committed(round_num, account)
        say(f"round {round_num}: stored by the attempt before, told now")

    def recovered(self, recovery: Recovery) -> None:
        """An attempt goes on from an older round than the newest."""
        for damage in recovery.damages:
            complain(damage)
            if isinstance(damage, ChunkError):
                self.damaged(damage)
        source = f"{SERVER} round {recovery.source_round}"
        self.adopted(recovery.done, source, recovery.began_ns)

    def damaged(self, error: ChunkError) -> None:
        """A chunk that was needed could not be had."""
        is_missing = isinstance(error, MissingChunkError)
        self._damaged(error.place, Finding.MISSING if is_missing else Finding.DAMAGED)

    def mended(self, report: RepairReport) -> None:
        """A store was looked through and mended, as far as others could help."""
        for chunk in report.repaired:
            place = chunk.finding.place
            self._damaged(place, chunk.finding.finding)
            self.agent.emit(
                ChunkRepaired,
                round_num=place.round_num,
                store=place.node,
                digest=place.digest,
                source=node_of(chunk.taken_from),
            )
        for finding in report.left:
            self._damaged(finding.place, finding.finding)

    def abandoned(self, effect: Abandon, clients: Sequence[str]) -> None:
        """A round ended without enough updates; these had come in vain."""
        self.agent.phase("waiting")
        self.agent.emit(
            RoundAbandoned,
            round_num=effect.round_num,
            reason=effect.reason,
            num_updates=len(clients),
            num_selected=effect.num_selected,
        )
        for client in clients:
            self.refused(client, effect.round_num, f"abandoned: {effect.reason}")

    def joined(
        self, client: str, session: str, last_round: int | None, *, is_return: bool
    ) -> None:
        """A client may be asked from now on."""
        self.agent.emit(
            ClientJoined,
            client=client,
            session=session,
            last_round=last_round,
            is_return=is_return,
        )

    def lost(self, client: str, session: str, reason: str) -> None:
        """A client's session is over."""
        self.agent.emit(
            ClientLost,
            client=client,
            session=session,
            reason=reason[:_MAX_REASON_CHARS],
        )

    def turned_away(self, client: str, reason: str) -> None:
        """Somebody who claims this key was not let in; told once a second at most."""
        client, reason = client[:_MAX_KEY_CHARS], reason[:_MAX_REASON_CHARS]
        self._turned_away.add("", {"client": client, "reason": reason}, monotonic_ns())

    def refused(self, client: str, round_num: int | None, reason: str) -> None:
        """An update does not count.

        Args:
            client: Whose.
            round_num: That it is for; None: it names none that this attempt had,
                and is told of the newest.
            reason: In words.
        """
        reason = reason[:_MAX_REASON_CHARS]
        fields: dict[str, Any] = {"client": client, "reason": reason}
        if round_num is not None:
            fields["round_num"] = round_num
        self._refused.add(client, fields, monotonic_ns())

    def _committed(
        self, round_num: int, account: Account, began_ns: int | None = None
    ) -> None:
        """Tell a durable round; its length is until now if it began in this life."""
        if began_ns is not None:
            round_ns = monotonic_ns() - began_ns
            account = msgspec.structs.replace(account, round_ns=round_ns)
        fields = msgspec.structs.asdict(account)
        self.agent.emit(RoundCommitted, round_num=round_num, **fields)

    def _damaged(self, place: ChunkPlace, finding: Finding) -> None:
        self.agent.emit(
            ChunkDamaged,
            round_num=place.round_num,
            store=place.node,
            chunk=place.chunk_id or 0,
            digest=place.digest,
            reason=finding.value,
        )

    def _updates(self, round_num: int, updates: Iterable[UpdateAccount]) -> None:
        for update in updates:
            fields = msgspec.structs.asdict(update)
            self.agent.emit(ClientUpdate, round_num=round_num, **fields)

    def _measured(self, done: Committed) -> None:
        measured = done.measured
        if measured is not None:
            self.agent.eval_done(
                round_num=done.round_num,
                loss=measured.loss,
                eval_ns=measured.eval_ns,
                accuracy_frac=measured.accuracy_frac,
                buffers=measured.buffers,
            )

    def _stored(self, done: Committed) -> None:
        put, stats = done.put, done.stats
        tell_mended_copies(self.agent, put)
        self.agent.emit(
            StoreStats,
            round_num=done.round_num,
            num_rounds=stats.num_rounds,
            num_chunks=stats.num_unique_chunks,
            new_chunks=put.num_new,
            new_bytes=put.new_bytes,
            shared_bytes=put.shared_bytes,
            file_bytes=put.file_bytes,
            put_ns=put.elapsed_ns,
        )


def _line(close: Close, done: Committed) -> str:
    """Return a round as one line for whoever watches the server's output."""
    parts = [
        f"round {close.round_num}: {len(done.members)} of {close.num_selected} clients"
    ]
    measured = done.measured
    if measured is not None and measured.loss is not None:
        parts.append(f"loss {measured.loss:.4f}")
    if measured is not None and measured.accuracy_frac is not None:
        whose = (
            "" if measured.buffers == "none" else f" with {measured.buffers} buffers"
        )
        parts.append(f"accuracy {measured.accuracy_frac:.1%}{whose}")
    return ", ".join(parts)
