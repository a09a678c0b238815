"""Take the stacks of other processes of this host, and tell what came of it.

A process that cannot run Python any more writes its own stacks when it gets
its signal; one that is stopped cannot, and is described from `/proc`. What
other hosts run is left to an agent there: it is asked as an operator would ask.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.emitter import Emitter
from agent.probes.stacks import ask_for_stacks, describe
from agent.rundir.events import StacksWritten
from agent.rundir.layout import RunDir, rank_stem
from agent.rundir.process import Liveness, liveness, this_process
from agent.rundir.requests import write_request
from agent.rundir.stacks import StacksHeader, list_headers, stacks_file


class _Asked(NamedTuple):
    header: StacksHeader
    path: Path
    size_bytes: int
    """Of its file before it was asked."""
    reason: str


class HostStacks:
    """Asks on one beat, and looks on the next whether the file has grown."""

    def __init__(self, emitter: Emitter, run: RunDir, attempt: int) -> None:
        """Make it for one attempt; nothing is read yet."""
        self._emitter = emitter
        self._run = run
        self._attempt = attempt
        self._asked: list[_Asked] = []

    @property
    def is_busy(self) -> bool:
        """Whether something was asked for that has not been told yet."""
        return bool(self._asked)

    def ranks_here(self) -> dict[int, StacksHeader]:
        """Return the ranks whose processes this one can see, dead or alive."""
        return {
            header.rank: header
            for header in list_headers(self._run, self._attempt)
            if header.rank is not None
            and liveness(header.process) is not Liveness.UNKNOWN
        }

    def file_of(self, rank: int) -> str:
        """Return where a rank's stacks stand, as a path in the run directory."""
        path = stacks_file(self._run, self._attempt, rank_stem(rank))
        return str(path.relative_to(self._run.path))

    def ask(self, ranks: Iterable[int], reason: str) -> None:
        """Make those ranks of this host write their stacks."""
        here = self.ranks_here()
        for rank in ranks:
            if rank in here:
                self.ask_process(here[rank], reason)

    def ask_process(self, header: StacksHeader, reason: str) -> None:
        """Make one process of this host write its stacks."""
        path = self._path(header)
        size_bytes = _size_bytes(path)
        refusal = ask_for_stacks(header)
        if refusal is None:
            self._asked.append(_Asked(header, path, size_bytes, reason))
        else:
            self._tell_none(header, reason, refusal)

    def silent(self, since_ns: int) -> list[StacksHeader]:
        """Return the other processes alive on this host without stacks since then.

        `since_ns`: by the clock that stamps the files of the run directory.
        """
        return [
            header
            for header in list_headers(self._run, self._attempt)
            if header.process != this_process()
            and liveness(header.process) is Liveness.ALIVE
            and _written_ns(self._path(header)) < since_ns
        ]

    def ask_elsewhere(self, ranks: Sequence[int], near: Sequence[int]) -> None:
        """Ask for the stacks of those ranks that nobody of `near` shares a host with.

        Raises:
            RunDirError: `requests/` is not ours alone.
            OSError: it cannot be written.
        """
        hosts = {
            header.rank: (header.process.host, header.process.boot_id)
            for header in list_headers(self._run, self._attempt)
        }
        reached = {hosts.get(rank) for rank in near}
        far = [rank for rank in ranks if rank in hosts and hosts[rank] not in reached]
        if far:
            write_request(self._run, "stacks", {"ranks": far}, attempt=self._attempt)

    def look(self) -> None:
        """Tell what has come since the beat before."""
        asked, self._asked = self._asked, []
        for one in asked:
            if _size_bytes(one.path) > one.size_bytes:
                self._tell(one.path, one.reason)
                continue
            state = describe(one.header.process.pid)
            self._tell_none(one.header, one.reason, state)

    def _path(self, header: StacksHeader) -> Path:
        stem = header.node if header.rank is None else rank_stem(header.rank)
        return stacks_file(self._run, self._attempt, stem)

    def _tell_none(self, header: StacksHeader, reason: str, why: str) -> None:
        none = f"{reason}: none of {name_of(header)}: {why}"
        self._tell(self._path(header), none, has_stacks=False)

    def _tell(self, path: Path, reason: str, *, has_stacks: bool = True) -> None:
        file = str(path.relative_to(self._run.path))
        self._emitter.emit(
            StacksWritten, file=file, reason=reason, has_stacks=has_stacks
        )


def name_of(header: StacksHeader) -> str:
    """Return whom a message means: `rank 3`, or a node by its name."""
    return f"`{header.node}`" if header.rank is None else f"rank {header.rank}"


def _written_ns(path: Path) -> int:
    """Return when a file was last written; 0: it was removed meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _size_bytes(path: Path) -> int:
    """Return a file's size; 0: it was removed meanwhile."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
