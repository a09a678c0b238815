"""Carry out `stacks`: every process writes its own, the frozen ones are asked.

The one request that needs no safe point and no agreement: each agent notices
it, whether rank 0 has claimed it yet or not. Two beats later the lowest rank
of each host that is alive asks those there that are not; a server asks the
clients of its host that have not written. The outcome names who has not.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import Any

from agent.probes.host_stacks import HostStacks, name_of
from agent.probes.inbox import STACKS, Inbox
from agent.probes.peers import Peers
from agent.probes.pending import pending
from agent.probes.stacks import Stacks, describe, is_stopped
from agent.rundir.layout import RunDir
from agent.rundir.requests import (
    CLAIMED_SUFFIX,
    PENDING_SUFFIX,
    RefusedRequestError,
    Request,
    Stage,
    open_inbox,
    read_request,
    refusal,
)
from agent.rundir.stacks import StacksHeader

_ASK_AFTER_BEATS = 2
_DONE_AFTER_BEATS = 5
_GIVE_UP_AFTER_NS = 10_000_000_000
"""Until then a process that runs may still be on its way, on a busy host."""
_MAX_NAMED = 4


@dataclass
class _Open:
    request: Request
    made_ns: int
    """When its file was written, by the clock that stamps files."""
    noticed_ns: int = field(default_factory=time.monotonic_ns)
    num_beats: int = 0
    error: str | None = None
    """Why this process could not write its own."""

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
    _started_ns: int = field(default_factory=time.time_ns)
    _open: dict[str, _Open] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Notice requests for stacks, and go on with those that are open."""
        for opened in self._new():
            self._open[opened.request.id] = opened
            if self.inbox is not None:
                self.inbox.claim(opened.request.id)
        for opened in list(self._open.values()):
            self._go_on(opened)

    def end(self) -> None:
        """Tell what came of requests that are still open when this process ends."""
        for opened in list(self._open.values()):
            opened.error = opened.error or "the run ended before all ranks had answered"
            self._close(opened)

    def _go_on(self, opened: _Open) -> None:
        # Counted first: a beat that fails is not tried for ever.
        beat, opened.num_beats = opened.num_beats, opened.num_beats + 1
        if beat == 0 and opened.concerns(self.rank):
            self._write_own(opened)
        if beat >= _DONE_AFTER_BEATS:
            self._close_if_answered(opened)
        if beat <= _ASK_AFTER_BEATS:
            self.peers.look()
        if beat == _ASK_AFTER_BEATS:
            self._ask_frozen(opened)
        elif beat > _ASK_AFTER_BEATS and self.host.is_busy:
            self.host.look()

    def _write_own(self, opened: _Open) -> None:
        try:
            if not self.stacks.write(opened.reason):
                opened.error = f"{self.stacks.file}: it could not be opened"
        except OSError as error:
            opened.error = f"{self.stacks.file}: {error.strerror}"

    def _close_if_answered(self, opened: _Open) -> None:
        """Tell the outcome, unless somebody is on the way."""
        silent = self._silent(opened) if self.inbox is not None else []
        is_late = time.monotonic_ns() > opened.noticed_ns + _GIVE_UP_AFTER_NS
        if not is_late and any(not is_stopped(h.process.pid) for h in silent):
            return
        opened.error = "; ".join(filter(None, (opened.error, _none_of(silent)))) or None
        self._close(opened)

    def _silent(self, opened: _Open) -> list[StacksHeader]:
        """Return who of this host was asked and has not written since."""
        silent = self.host.silent(opened.made_ns)
        return [header for header in silent if opened.concerns(header.rank)]

    def _close(self, opened: _Open) -> None:
        del self._open[opened.request.id]
        self._done.add(opened.request.id)
        if self.inbox is not None:
            stage = Stage.DONE if opened.error is None else Stage.FAILED
            self.inbox.finish(pending(opened.request), stage, opened.error)

    def _ask_frozen(self, opened: _Open) -> None:
        if self.rank is None:
            self._ask_silent_clients(opened)
            return
        here = self.host.ranks_here()
        alive = {r for r in here if r == self.rank or self.peers.is_alive(r)}
        if self.rank == min(alive, default=self.rank):
            frozen = [r for r in here if r not in alive and opened.concerns(r)]
            self.host.ask(frozen, opened.reason)

    def _ask_silent_clients(self, opened: _Open) -> None:
        if self.inbox is None:
            return
        for header in self._silent(opened):
            self.host.ask_process(header, opened.reason)

    def _new(self) -> list[_Open]:
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
                        made_ns = os.stat(name, dir_fd=inbox).st_mtime_ns
                        found.append(_Open(request, made_ns))
            finally:
                os.close(inbox)
        return found

    def _is_valid(self, request: Request) -> bool:
        """Whether rank 0 would not refuse it either, whoever comes first."""
        if request.kind != STACKS:
            return False
        reason = refusal(
            self.run,
            request,
            attempt=self.attempt,
            started_ns=self._started_ns,
            now_ns=time.time_ns(),
        )
        return reason is None


def _none_of(silent: list[StacksHeader]) -> str:
    """Say who has not written, and what each is doing; empty: everybody has."""
    told = [
        f"none of {name_of(header)}: {describe(header.process.pid)}"
        for header in silent[:_MAX_NAMED]
    ]
    if len(silent) > _MAX_NAMED:
        told.append(f"none of {len(silent) - _MAX_NAMED} others")
    return "; ".join(told)


def _read(inbox: int, name: str) -> Request | None:
    try:
        return read_request(inbox, name)
    except (OSError, RefusedRequestError):
        return None
