"""Carry out `stacks`: every process writes its own, the frozen ones are asked.

The one request that needs no safe point and no agreement: each agent notices
it, whether rank 0 has claimed it yet or not. Two beats later the lowest rank
of each host that is alive asks those there that are not.
"""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

from agent.probes.host_stacks import HostStacks
from agent.probes.inbox import STACKS, Inbox, pending
from agent.probes.peers import Peers
from agent.probes.stacks import Stacks
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    CLAIMED_SUFFIX,
    PENDING_SUFFIX,
    RefusedRequestError,
    Request,
    Stage,
    open_inbox,
    read_request,
)

_ASK_AFTER_BEATS = 2
_DONE_AFTER_BEATS = 5


@dataclass
class _Open:
    request: Request
    num_beats: int = 0

    def concerns(self, rank: int | None) -> bool:
        ranks: Any = self.request.args.get("ranks")
        return ranks is None or rank in ranks

    @property
    def reason(self) -> str:
        return f"asked for by {self.request.by}"


@dataclass
class StacksOnRequest:
    """Asked at every beat, in every process."""

    run: RunDir
    attempt: int
    rank: int | None
    """None: outside a process group every process answers for itself alone."""
    stacks: Stacks
    peers: Peers
    host: HostStacks
    inbox: Inbox | None
    """Where there is one, the outcome is told from here."""
    _open: dict[str, _Open] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Notice requests for stacks, and go on with those that are open."""
        for request in self._new():
            self._open[request.id] = _Open(request)
            if self.inbox is not None:
                self.inbox.claim(request.id)
        for opened in list(self._open.values()):
            self._go_on(opened)

    def _go_on(self, opened: _Open) -> None:
        if opened.num_beats == 0 and opened.concerns(self.rank):
            self.stacks.write(opened.reason)
        if opened.num_beats <= _ASK_AFTER_BEATS:
            self.peers.look()
        if opened.num_beats == _ASK_AFTER_BEATS:
            self._ask_frozen(opened)
        elif opened.num_beats > _ASK_AFTER_BEATS and self.host.is_busy:
            self.host.look()
        opened.num_beats += 1
        if opened.num_beats > _DONE_AFTER_BEATS:
            del self._open[opened.request.id]
            self._done.add(opened.request.id)
            if self.inbox is not None:
                self.inbox.finish(pending(opened.request), Stage.DONE)

    def _ask_frozen(self, opened: _Open) -> None:
        if self.rank is None:
            return
        here = self.host.ranks_here()
        alive = {r for r in here if r == self.rank or self.peers.is_alive(r)}
        if self.rank == min(alive, default=self.rank):
            frozen = [r for r in here if r not in alive and opened.concerns(r)]
            self.host.ask(frozen, opened.reason)

    def _new(self) -> list[Request]:
        """Return the requests for stacks of this attempt that were not seen yet."""
        found = []
        with contextlib.suppress(OSError, RefusedRequestError):
            inbox = open_inbox(self.run)
            try:
                for name in os.listdir(inbox):  # noqa: PTH208 - of this very directory
                    stem, _, suffix = name.rpartition(".")
                    if "." + suffix not in (PENDING_SUFFIX, CLAIMED_SUFFIX):
                        continue
                    if stem in self._open or stem in self._done:
                        continue
                    request = _read(inbox, name)
                    if request is not None and self._is_valid(request):
                        found.append(request)
            finally:
                os.close(inbox)
        return found

    def _is_valid(self, request: Request) -> bool:
        return request.kind == STACKS and request.attempt in (None, self.attempt)


def _read(inbox: int, name: str) -> Request | None:
    try:
        return read_request(inbox, name)
    except (OSError, RefusedRequestError):
        return None
